"""Connecting to Ray, quietly, and leaving nothing behind."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study import Operations

_LOUD = {
    "ray": logging.ERROR,
    "ray.tune": logging.ERROR,
    "ray.train": logging.ERROR,
    "ray.data": logging.ERROR,
    "ray.tune.analysis.experiment_analysis": logging.CRITICAL,
}


@contextmanager
def connected(address: str | None, operations: Operations) -> Iterator[None]:
    """Ray for the duration of a study.

    Without an address a Ray of our own is started on this machine, and ended with the study: never the one that Ray's
    current-cluster file happens to name, which may be stale. If this process is connected already, that is used as it
    is, and left as it was found.

    Raises:
        UserError: no connection, or the cluster can never hold one lane.
    """
    _silence()
    if ray.is_initialized():
        _check_room(operations)
        yield
        return
    wanted = operations.lanes * operations.workers_per_lane * operations.cpus_per_worker
    cpus = max(os.cpu_count() or 1, math.ceil(wanted))  # logical: too many lanes are slow here, not impossible
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot connect to Ray at {address or 'this machine'}: {error}; is it running (`ray status`), and if it uses "
            "tokens: is RAY_AUTH_MODE=token set here, and the token file the same?"
        ) from None
    try:
        _silence()
        _check_room(operations)
        yield
    finally:
        ray.shutdown()


def _silence() -> None:
    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)


def _check_room(operations: Operations) -> None:
    """Refuse a lane that the cluster can never hold; fewer free resources than lanes only means waiting."""
    if _grows():
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, amount in (("CPU", operations.cpus_per_worker), ("GPU", operations.gpus_per_worker)):
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > most:
            raise UserError(
                f"operations: a worker needs {amount:g} {name}, but the largest node has {most:g}; lower "
                f"`{name.lower()}s_per_worker` or add a node"
            )
        needed, total = amount * operations.workers_per_lane, sum(node.get(name, 0.0) for node in nodes)
        if needed > total:
            raise UserError(
                f"operations: a lane of {operations.workers_per_lane} workers needs {needed:g} {name}, but the cluster "
                f"has {total:g}; lower `workers_per_lane` or add nodes"
            )


def _grows() -> bool:
    """True on a cluster with an autoscaler: what it has now says little of what it can hold. Asks Ray's private state."""
    try:
        from ray._private.state import state

        return bool(state.get_max_resources_from_cluster_config())
    except (ImportError, AttributeError, RuntimeError):
        return False
