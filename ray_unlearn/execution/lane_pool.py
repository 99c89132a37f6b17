"""Decisions about lanes, from numbers: which exist, start, wait, move or are hung.

`lane_watcher` and `lane_fleet` carry them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray_unlearn.environment import Environment
from ray_unlearn.execution.messages import HubState, LaneStart, LaneState, Launch
from ray_unlearn.execution.placement import Cluster, Shape, why_waiting
from ray_unlearn.spec.operations import Operations

EXPLAIN_S = 60.0
"""Seconds of waiting after which a lane reports why it waits."""

STARTS_S = 60.0
"""Seconds in which a lane that has a place is up.

If it is not, and there is no room, something else has its place.
"""

AHEAD = 8
"""Lanes that ask an autoscaler for room at a time; each is a process here while it waits."""

MARGIN_S = 3.0
"""Seconds before its node leaves at which a lane is off it in any case."""


@dataclass
class PoolLane:
    """The driver's knowledge of a lane; the hub has the rest."""

    waits_since: float
    """Time since which it is not up."""
    launched: bool = False
    """Whether it runs or starts; if not, it waits for room and is neither thread nor process."""
    launches: int = 0
    said: set[str] = field(default_factory=set)
    """Kinds of reasons for waiting that it has reported."""
    retired: bool = False
    leaves_by: float | None = None
    """Time at which it will be taken off its node."""


@dataclass(frozen=True)
class Waiting:
    """The reasons why lanes without a place wait."""

    changed: dict[int, str]
    """New texts by lane; an empty text: the lane has a place."""
    said: list[str]
    """Lines for the operator."""


@dataclass(frozen=True)
class Move:
    """A lane that must leave its node."""

    start: LaneStart
    reason: str
    at_once: bool


class LanePool:
    """The driver's lanes; see the module.

    Args:
        operations: number of lanes, time-outs.
        trials: number of trials to run; there are never more lanes.
        shape: resources of one lane.
        environment: the clock.
    """

    def __init__(
        self, operations: Operations, trials: int, shape: Shape, environment: Environment
    ) -> None:
        self._operations = operations
        self._shape = shape
        self._environment = environment
        self.lanes: list[PoolLane] = []
        self.most = operations.most_lanes(trials)
        """Most lanes that there may ever be."""

    @property
    def room(self) -> int:
        """Number of lanes that run or start, at least 1: as many trials are worth asking for."""
        return max(1, sum(lane.launched for lane in self.lanes))

    @property
    def retired(self) -> list[int]:
        """Lanes that are retired because there is no room."""
        return [index for index, lane in enumerate(self.lanes) if lane.retired]

    def resize(self, cluster: Cluster) -> bool:
        """Adjust the number of lanes to the cluster, and return whether anything has changed.

        With `lanes: auto` there are as many as the cluster can hold; lanes that wait beyond that
        number are retired.
        """
        wanted = self.most
        if self._operations.lanes == "auto":
            wanted = max(1, min(wanted, cluster.lanes_at_most(self._shape)))
        before = len(self.lanes), self.retired
        now = self._environment.monotonic()
        self.lanes += [PoolLane(now) for _ in range(wanted - len(self.lanes))]
        spare = len(self.lanes) - wanted
        for lane in reversed(self.lanes):  # a launched lane has a place and keeps it
            lane.retired = not lane.launched and spare > 0
            spare -= lane.retired
        return before != (len(self.lanes), self.retired)

    def seen(self, state: HubState) -> None:
        """Note which lanes are up, so that they do not wait."""
        for lane, told in zip(self.lanes, state.lanes, strict=True):
            if told.up:
                lane.waits_since = self._environment.monotonic()
                lane.said.clear()

    def launch(self, cluster: Cluster, state: HubState) -> list[Launch]:
        """Lanes to start now.

        They are as many as have room, and as many as an autoscaler may make room for (it starts
        nodes only on request). A starting lane may not hold its place yet, but its place is not
        given twice.
        """
        starting = sum(
            lane.launched and not told.up
            for lane, told in zip(self.lanes, state.lanes, strict=True)
        )
        room = cluster.lanes_free(self._shape) - starting
        if cluster.grows:
            running = sum(lane.launched for lane in self.lanes)
            room = max(room, min(AHEAD - starting, cluster.lanes_at_most(self._shape) - running))
        free = [i for i, lane in enumerate(self.lanes) if not lane.launched and not lane.retired]
        return [self._launched(index) for index in free[: max(0, room)]]

    def _launched(self, index: int) -> Launch:
        lane = self.lanes[index]
        lane.launched = True
        lane.launches += 1
        return Launch(index, lane.launches)

    def left(self, index: int) -> None:
        """Note that a launch has ended, so that the lane may get another place."""
        lane = self.lanes[index]
        lane.waits_since, lane.launched = self._environment.monotonic(), False

    def waiting(self, cluster: Cluster, state: HubState) -> Waiting:
        """The reasons why lanes without a place wait.

        Lanes that have waited for long report it, each kind of reason once.
        """
        no_room = cluster.lanes_free(self._shape) == 0
        changed, said = {}, []
        for told, lane in zip(state.lanes, self.lanes, strict=True):
            text = ""
            if no_room and not told.up and not lane.retired and not self._is_starting(lane):
                why = why_waiting(cluster, self._shape)
                text = why.text
                if why.kind not in lane.said and self._waited_s(lane) >= EXPLAIN_S:
                    lane.said.add(why.kind)
                    said.append(f"lane {told.index} waits for {why.text}")
            if text != told.waiting_for:
                changed[told.index] = text
        return Waiting(changed, said)

    def _is_starting(self, lane: PoolLane) -> bool:
        """Whether the lane has a place but may need some seconds to take it."""
        return lane.launched and self._waited_s(lane) < STARTS_S

    def _waited_s(self, lane: PoolLane) -> float:
        return self._environment.monotonic() - lane.waits_since

    def moves(
        self, state: HubState, leaving: Mapping[str, float | None], names: Mapping[str, str]
    ) -> list[Move]:
        """Lanes on nodes that are about to leave.

        Args:
            state: the hub's state.
            leaving: ids of those nodes, with the time (Unix) if it is known.
            names: names of nodes, by id.
        """
        moves = []
        for told, lane in zip(state.lanes, self.lanes, strict=True):
            here = [node for node in told.nodes if node in leaving]
            if not here or not lane.launched:
                lane.leaves_by = None
                continue
            now = self._environment.monotonic()
            if lane.leaves_by is None:
                lane.leaves_by = now + self._grace_s([leaving[node] for node in here]) - MARGIN_S
            shown = ", ".join(names.get(node, node[:6]) for node in here)
            reason = f"its node {shown} is being drained"
            moves.append(Move(told.start, reason, now >= lane.leaves_by))
        return moves

    def _grace_s(self, ends: Sequence[float | None]) -> float:
        now = self._environment.time()
        return min(self._operations.grace_s if end is None else end - now for end in ends)

    def silent(self, state: HubState, limit_s: float | None) -> list[LaneState]:
        """Lanes without a sign of life for `limit_s`; Ray Train does not notice a hung thread."""
        if limit_s is None:
            return []
        return [lane for lane in state.lanes if lane.pids and lane.silent_s >= limit_s]
