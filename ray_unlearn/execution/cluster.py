"""Ray's nodes: what a cluster has now, what an autoscaler may add, which nodes are about to leave.

Free resources of each node, draining nodes and the autoscaler's limits are in Ray's private state
only. If a version of Ray does not have it, lanes are placed by the nodes' total resources, no node
drains, and no node is expected.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import ray

from ray_unlearn.execution.messages import NodeFate
from ray_unlearn.execution.placement import Cluster, Node
from ray_unlearn.execution.trial_errors import lost_peer

SOME_NODES = Node("nodes that an autoscaler may add", {"CPU": 1e6, "GPU": 1e6, "memory": 1e18})
"""Nodes of an autoscaler that is known to exist but does not publish what it may start."""

_NOT_THERE = (ImportError, AttributeError, RuntimeError, KeyError, TypeError, ValueError)
_log = logging.getLogger(__name__)


def look(autoscaling: bool = False) -> Cluster:
    """The connected cluster.

    Args:
        autoscaling: nodes may be added even if Ray does not report which.
    """
    told = [node for node in ray.nodes() if node["Alive"]]
    names = Counter(_host(node) for node in told)
    free: dict[str, dict[str, float]] = (
        _private(lambda state: state.available_resources_per_node()) or {}
    )
    leaving = draining()
    nodes = [
        Node(
            name=_host(node)
            if names[_host(node)] == 1
            else f"{_host(node)} ({node['NodeID'][:6]})",
            total=node["Resources"],
            # a node that has just joined may be in only one of the two lists
            free=free.get(node["NodeID"], {}) if free else None,
            draining=node["NodeID"] in leaving,
            labels=node.get("Labels") or {},
            id=node["NodeID"],
        )
        for node in told
    ]
    groups = list(_addable())
    return Cluster(nodes, groups or ([SOME_NODES] if autoscaling else []))


def draining() -> dict[str, float | None]:
    """Nodes that will be taken away, with the time (Unix) if it is known.

    The cause may be `ray drain-node`, a spot notice or an autoscaler.
    """
    told: dict[str, int] = _private(lambda state: state.get_draining_nodes()) or {}
    return {node: deadline_ms / 1000 if deadline_ms else None for node, deadline_ms in told.items()}


def died_with_node(error: BaseException) -> NodeFate:
    """Whether a worker died because its node did.

    Returns:
        `preempted` (the node's end had been announced), `node`, nothing, or `unknown`: the worker
        or its peer cannot be reached, and Ray's missing heartbeats will show why in about 15 s.
    """
    cause = getattr(error, "health_check_failure", error)  # Ray Train wraps it
    if getattr(cause, "preempted", False):
        return "preempted"
    if isinstance(cause, ray.exceptions.ActorUnavailableError) or lost_peer(error):
        return "unknown"
    died = isinstance(cause, ray.exceptions.RayActorError) and "node has died" in str(cause)
    return "node" if died else ""


def remove_groups_of(actor_id: str) -> None:
    """Remove the placement groups that an actor has left; Ray does so only when the job ends."""
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for group in _private(lambda state: list(_groups_of(state, actor_id))) or []:
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group)))


def _groups_of(state: Any, actor_id: str) -> Iterator[bytes]:
    from ray.core.generated import gcs_pb2

    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        if (
            group.creator_actor_id.hex() == actor_id
            and group.state != gcs_pb2.PlacementGroupTableData.REMOVED
        ):
            yield group.placement_group_id


def _addable() -> Iterator[Node]:
    """The autoscaler's kinds of nodes, each with the most that it may start.

    Ray 2.60's own autoscalers do not publish them.
    """
    config = _private(lambda state: state.get_cluster_config())
    for group in config.node_group_configs if config is not None else ():
        if group.max_count:
            count = group.max_count if group.max_count > 0 else 10_000
            yield Node(
                name=f"up to {count} x {group.name}", total=dict(group.resources), count=count
            )


def _private(ask: Callable[[Any], Any]) -> Any:
    """Ask Ray's private state; None if this version of Ray has none, or another."""
    try:
        from ray._private.state import state

        return ask(state)
    except _NOT_THERE as error:
        _log.debug("Ray's private state: %s", error)
        return None


def _host(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
