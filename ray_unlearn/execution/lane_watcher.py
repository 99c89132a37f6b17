"""The watcher of cluster and lanes, which starts lanes, moves them, and ends hung ones."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubLine
from ray_unlearn.execution.lane_pool import LanePool
from ray_unlearn.execution.messages import HubState, Launch, Worker
from ray_unlearn.execution.placement import Cluster

LOOK_S = 1.0
"""Seconds between two looks."""


class LaneHands(Protocol):
    """Actions on lanes, by Ray or by a test's cluster."""

    def start(self, launch: Launch) -> None:
        """Start a lane; returns at once."""

    def end(self, lane: int) -> None:
        """End a lane with all its workers."""

    def kill(self, worker: Worker) -> None:
        """End a process that may be hung."""


class LaneWatcher:
    """Carries out what `lane_pool` decides; see the module.

    Args:
        pool: the lanes.
        hub: the state of the lanes.
        hands: actions on the lanes.
        stall_timeout_s: seconds that a lane may give no sign of life; None: for ever.
        say: called with the reason why a lane waits.
    """

    def __init__(
        self,
        pool: LanePool,
        hub: HubLine,
        hands: LaneHands,
        stall_timeout_s: float | None,
        say: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._hands = hands
        self._stall_timeout_s = stall_timeout_s
        self._say = say
        self.node_names: dict[str, str] = {}
        """Names of all nodes ever seen, by id."""

    def look(self, cluster: Cluster, leaving: Mapping[str, float | None], over: bool) -> None:
        """Look once.

        Args:
            cluster: the cluster now.
            leaving: ids of nodes that will be taken away, with the time (Unix) if it is known.
            over: no more lanes are to be started.

        Raises:
            HubDied: the hub does not answer, so the study is over.
        """
        pool, hub = self._pool, self._hub
        self.node_names |= {node.id: node.name for node in cluster.nodes}
        if pool.resize(cluster):
            hub.ask(Hub.resize, pool.retired, len(pool.lanes))
        state = hub.ask(Hub.state)
        pool.seen(state)
        if state.unsettled:
            hub.ask(Hub.settle, [node.id for node in cluster.nodes if node.alive])
        if not state.over and not over:
            for launch in pool.launch(cluster, state):
                self._hands.start(launch)
        self._explain(cluster, state)
        for move in pool.moves(state, leaving, self.node_names):
            if hub.ask(Hub.vacate, move.start, move.reason, move.at_once):
                self._hands.end(move.start.lane)
        for lane in pool.silent(state, self._stall_timeout_s):
            for worker in hub.ask(Hub.stalled, lane.start, self._stall_timeout_s or 0.0):
                self._hands.kill(worker)

    def _explain(self, cluster: Cluster, state: HubState) -> None:
        waiting = self._pool.waiting(cluster, state)
        for text in waiting.said:
            self._hub.send(Hub.note, text)
            self._say(text)
        if waiting.changed:
            self._hub.ask(Hub.waits, waiting.changed)
