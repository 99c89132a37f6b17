"""How many lanes fit on which nodes, and why none does.

Numbers go in, numbers and sentences come out; `cluster` asks Ray. The lanes of a study are all
alike, the nodes need not be. Ray packs a lane's workers on one node where it can and spreads them
where it must, so what counts is how many workers each node holds; what is left over on several
nodes makes a lane too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ray_unlearn.spec.operations import Operations

UNLIMITED = 10_000
"""Lanes to ask an autoscaler without a limit for; the number of trials is the real limit."""

_ROUNDING = 1e-6
"""Tolerance of amounts, which Ray rounds to four decimals."""

_GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """The resources of one lane."""

    workers: int
    cpus: float
    """CPUs per worker, as all below."""
    gpus: float = 0.0
    memory_gib: float | None = None
    """Estimated memory on the host; None: not known, and not counted."""

    def __str__(self) -> str:
        each = _amounts({"CPU": self.cpus, "GPU": self.gpus})
        return f"{self.workers} worker(s) of {each}{' each' if self.workers > 1 else ''}"

    @property
    def worker(self) -> dict[str, float]:
        """Resources of one worker, by Ray's names."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": (self.memory_gib or 0.0) * _GIB}
        return {name: amount for name, amount in wanted.items() if amount > 0}


def shape_of(operations: Operations, worker_gib: float | None = None) -> Shape:
    """The shape of a study's lane, with `worker_gib` of host memory per worker (None: unknown)."""
    return Shape(
        operations.workers_per_lane,
        operations.cpus_per_worker,
        operations.gpus_per_worker,
        worker_gib,
    )


@dataclass(frozen=True)
class Node:
    """One node, or `count` equal ones that an autoscaler may start."""

    name: str
    total: Mapping[str, float]
    """Resources by Ray's names; `memory` in bytes."""
    free: Mapping[str, float] | None = None
    """Free resources; None: as `total`."""
    alive: bool = True
    draining: bool = False
    """Whether it will be taken away, so that nothing new is put there."""
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    count: int = 1

    @property
    def usable(self) -> bool:
        return self.alive and not self.draining

    @property
    def accelerator(self) -> str:
        """Kind of its GPUs, if Ray reports it."""
        return self.labels.get("ray.io/accelerator-type", "")

    def workers(self, shape: Shape, total: bool = False) -> int:
        """Number of workers of this shape that fit; with `total`, if nothing else ran there."""
        if not self.usable:
            return 0
        there = self.total if total or self.free is None else self.free
        return self.count * min(
            _times(name, there.get(name, 0.0), amount) for name, amount in shape.worker.items()
        )


@dataclass(frozen=True)
class Cluster:
    """The present nodes, and all those that an autoscaler may have, started or not."""

    nodes: Sequence[Node]
    groups: Sequence[Node] = ()

    @property
    def grows(self) -> bool:
        """Whether there is an autoscaler."""
        return bool(self.groups)

    def lanes_free(self, shape: Shape) -> int:
        """Number of lanes that could start now."""
        return fits(self.nodes, shape)

    def lanes_at_most(self, shape: Shape) -> int:
        """Number of lanes that fit if nothing else runs, with all nodes that may be added."""
        return max(
            fits(self.nodes, shape, total=True),
            min(UNLIMITED, fits(self.groups, shape, total=True)),
        )


def fits(nodes: Iterable[Node], shape: Shape, total: bool = False) -> int:
    """Number of lanes that fit; with `total`, if nothing else ran there."""
    return sum(node.workers(shape, total) for node in nodes) // shape.workers


def place(
    nodes: Iterable[Node], shape: Shape, lanes: int, total: bool = False
) -> list[dict[str, int]]:
    """Place up to `lanes` lanes; for each, its number of workers by node.

    Lanes that fit on one node come first.
    """
    room = {node.name: node.workers(shape, total) for node in nodes}
    placed: list[dict[str, int]] = []
    for name, workers in list(room.items()):
        whole = min(workers // shape.workers, lanes - len(placed))
        room[name] -= whole * shape.workers
        placed += [{name: shape.workers}] * whole
    while sum(room.values()) >= shape.workers and len(placed) < lanes:
        lane, missing = {}, shape.workers
        for name in sorted(room, key=lambda name: -room[name]):
            taken = min(room[name], missing)
            if taken:
                lane[name] = taken
                room[name] -= taken
                missing -= taken
        placed.append(lane)
    return placed


def why_never(cluster: Cluster, shape: Shape) -> str | None:
    """Why not even one lane fits if nothing else ran, with value, place and remedy.

    None if one does.
    """
    if cluster.lanes_at_most(shape) >= 1:
        return None
    nodes = [node for node in (*cluster.nodes, *cluster.groups) if node.usable]
    if not nodes:
        return "the cluster has no node that is alive and stays; start one, or wait for it"
    for name, amount in shape.worker.items():
        most = max(nodes, key=lambda node: node.total.get(name, 0.0))
        if amount > most.total.get(name, 0.0) + _ROUNDING:
            return (
                f"operations: a worker needs {_amount(name, amount)}, but the largest node has "
                f"{_amount(name, most.total.get(name, 0.0))} ({most.name}); {_REMEDIES[name]} or "
                "add a node"
            )
    if not any(node.workers(shape, total=True) for node in nodes):
        held = "; ".join(
            f"{node.name} has {_amounts({n: node.total.get(n, 0.0) for n in shape.worker})}"
            for node in nodes
        )
        return (
            f"operations: no node has {_amounts(shape.worker)} together, as a worker needs: "
            f"{held}; use less of one of them"
        )
    holds = max(
        sum(node.workers(shape, total=True) for node in group if node.usable)
        for group in (cluster.nodes, cluster.groups)
    )
    return (
        f"operations: a lane of {shape.workers} workers needs {_amounts(_times_all(shape))}, but "
        "the cluster holds "
        f"{holds} of its workers; lower `workers_per_lane` or add nodes"
    )


@dataclass(frozen=True)
class Placed:
    """The placement of a study on a cluster."""

    lanes: int
    nodes: dict[str, str]
    """What each node will hold, in words."""
    problems: list[str]
    notes: list[str]


def placed(cluster: Cluster, shape: Shape, operations: Operations, trials: int) -> Placed:
    """The placement of a study of `trials` trials on a cluster, if nothing else ran there.

    The notes mention what others use now.
    """
    never = why_never(cluster, shape)
    if never is not None:
        return Placed(1, {}, [never], [])
    wanted, now = operations.most_lanes(trials), fits(cluster.nodes, shape, total=True)
    most = cluster.lanes_at_most(shape)
    lanes, free = min(wanted, most), min(wanted, cluster.lanes_free(shape))
    problems, notes = [], []
    if operations.lanes != "auto" and wanted > most:
        problems.append(
            f"{most} lane(s) of {shape} fit, {wanted} are asked for; use `--lanes {most}` or "
            "`auto`, or add nodes"
        )
    if now < lanes:
        notes.append(
            f"{now} lane(s) fit on the nodes that are there; the autoscaler may add nodes for "
            f"{lanes - now} more"
        )
    if free < min(lanes, now):
        notes.append(f"{free} lane(s) could start now; others use the rest")
    where = placed_lines(cluster.nodes, place(cluster.nodes, shape, lanes, total=True), shape)
    return Placed(lanes, dict(where), problems, notes)


@dataclass(frozen=True)
class Wait:
    """The reason why a lane waits."""

    kind: str
    """The kind of reason, each of which a lane reports once."""
    text: str


def why_waiting(cluster: Cluster, shape: Shape) -> Wait:
    """Why a lane has no place now."""
    never = why_never(cluster, shape)
    if never is not None:
        return Wait("never", f"{shape}: {never}")
    alive = [node for node in cluster.nodes if node.alive]
    names = [name for name in shape.worker if name != "memory"]
    there = ", ".join(
        f"{_sum(alive, name):g} {name}, {_sum(alive, name, free=True):g} of them free"
        for name in names
    )
    could = [node.name for node in alive if not node.draining and node.workers(shape, total=True)]
    leaving = [node.name for node in alive if node.draining]
    parts = [f"the cluster has {there}", f"nodes that could hold a worker: {_listed(could)}"]
    if leaving:
        parts.append(f"about to be taken away: {_listed(leaving)}")
    if fits(cluster.nodes, shape, total=True) >= 1:
        return Wait("in use", f"{shape}: {'; '.join(parts)}, in use")
    if cluster.grows:
        return Wait("autoscaler", f"{shape}: {'; '.join(parts)}; the autoscaler may add one")
    return Wait("no node", f"{shape}: {'; '.join(parts)}; add nodes")


_REMEDIES = {
    "CPU": "lower `cpus_per_worker`",
    "GPU": "lower `gpus_per_worker`",
    "memory": "see `ray-unlearn plan` for what a worker would save",
}


def _times(name: str, there: float, amount: float) -> int:
    """How often `amount` fits into `there`; a fraction of a GPU must be on one device."""
    if name == "GPU" and amount < 1:
        whole, rest = divmod(there + _ROUNDING, 1)
        return int(whole) * math.floor(1 / amount + _ROUNDING) + math.floor(
            rest / amount + _ROUNDING
        )
    return math.floor(there / amount + _ROUNDING)


def _times_all(shape: Shape) -> dict[str, float]:
    return {name: amount * shape.workers for name, amount in shape.worker.items()}


def _sum(nodes: Iterable[Node], name: str, free: bool = False) -> float:
    return sum(
        (node.total if not free or node.free is None else node.free).get(name, 0.0)
        for node in nodes
    )


def _amounts(amounts: Mapping[str, float]) -> str:
    return (
        ", ".join(_amount(name, amount) for name, amount in amounts.items() if amount) or "nothing"
    )


def _amount(name: str, amount: float) -> str:
    return f"{amount / _GIB:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        or "none"
    )


def placed_lines(
    nodes: Sequence[Node], placed: Sequence[Mapping[str, int]], shape: Shape
) -> Iterator[tuple[str, str]]:
    """Each node that will hold workers, and what they take there, for people."""
    for node in nodes:
        whole = sum(lane.get(node.name) == shape.workers for lane in placed)
        parts = sum(lane.get(node.name, 0) for lane in placed) - whole * shape.workers
        said = [f"{whole} lane(s)"] if whole else []
        said += [f"{parts} worker(s) of lanes that span nodes"] if parts else []
        if said:
            gpus = (whole * shape.workers + parts) * shape.gpus
            kind = f" {node.accelerator}" if node.accelerator else ""
            yield node.name, ", ".join(said) + (f", {gpus:g}{kind} GPU" if gpus else "")
