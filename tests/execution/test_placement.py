"""Which lanes fit where, on clusters small enough to work out by hand."""

import pytest

from ray_unlearn.execution.placement import (
    Cluster,
    Node,
    Shape,
    fits,
    place,
    placed,
    placed_lines,
    shape_of,
    why_never,
    why_waiting,
)
from ray_unlearn.spec.operations import Operations

GIB = 2**30


def node(
    name: str = "a",
    cpus: float = 0,
    gpus: float = 0,
    gib: float = 64,
    free: dict[str, float] | None = None,
    **more: object,
) -> Node:
    total = {"CPU": cpus, "GPU": gpus, "memory": gib * GIB}
    return Node(name, total, None if free is None else total | free, **more)


@pytest.mark.parametrize(
    ("shape", "nodes", "lanes"),
    [
        (Shape(1, 1), [node(cpus=4)], 4),
        (Shape(1, 2), [node(cpus=5)], 2),
        (Shape(1, 0.5), [node(cpus=2)], 4),
        (
            Shape(2, 1),
            [node(cpus=3), node("b", cpus=3)],
            3,
        ),  # one each, and one of what is left on either
        (Shape(4, 1), [node(cpus=3)], 0),
        (Shape(1, 1, 1), [node(cpus=8, gpus=4), node("cpu-only", cpus=64)], 4),
        (Shape(1, 4, 1), [node(cpus=8, gpus=4)], 2),
        (
            Shape(2, 1, 1),
            [node(cpus=8, gpus=8), node("b", cpus=8, gpus=3), node("c", cpus=1, gpus=1)],
            6,
        ),
        (Shape(1, 1, 0.5), [node(cpus=8, gpus=2)], 4),
        (Shape(1, 1, 0.4), [node(cpus=8, gpus=2)], 4),  # not five: a share is of one device
        (Shape(1, 1, 0.4), [node(cpus=8, gpus=2, free={"GPU": 1.2})], 2),
        (Shape(1, 1, memory_gib=30), [node(cpus=8, gib=64)], 2),
        (Shape(1, 1), [node(cpus=4, free={"CPU": 1})], 1),
        (
            Shape(1, 1),
            [node(cpus=4, alive=False), node("b", cpus=4, draining=True), node("c", cpus=1)],
            1,
        ),
        (Shape(1, 1), [], 0),
        (Shape(1, 0.1), [node(cpus=1, free={"CPU": 0.3 - 1e-9})], 3),  # as Ray's sums come out
    ],
)
def test_lanes_that_have_room(shape: Shape, nodes: list[Node], lanes: int) -> None:
    assert fits(nodes, shape) == lanes
    assert len(place(nodes, shape, 100)) == lanes


def test_a_lane_lies_on_one_node_where_it_can_and_spans_nodes_where_it_must() -> None:
    nodes = [node("a", cpus=3), node("b", cpus=5), node("c", cpus=2)]
    assert place(nodes, Shape(2, 1), 10) == [
        {"a": 2},
        {"b": 2},
        {"b": 2},
        {"c": 2},
        {"a": 1, "b": 1},
    ]
    assert place(nodes, Shape(2, 1), 1) == [{"a": 2}]
    assert place(nodes, Shape(6, 1), 10) == [{"b": 5, "a": 1}]
    lines = dict(placed_lines(nodes, place(nodes, Shape(2, 1), 10), Shape(2, 1)))
    assert lines == {
        "a": "1 lane(s), 1 worker(s) of lanes that span nodes",
        "b": "2 lane(s), 1 worker(s) of lanes that span nodes",
        "c": "1 lane(s)",
    }
    [(_, said)] = placed_lines(
        [node("g", 8, 2, labels={"ray.io/accelerator-type": "H100"})], [{"g": 2}], Shape(2, 1, 1)
    )
    assert said == "1 lane(s), 2 H100 GPU"


@pytest.mark.parametrize(
    ("shape", "nodes", "said"),
    [
        (
            Shape(1, 1, 1),
            [node("a", 8)],
            r"a worker needs 1 GPU, but the largest node has 0 GPU \(a\); lower `gpus_per_worker`",
        ),
        (
            Shape(1, 9),
            [node("a", 8), node("b", 4)],
            r"needs 9 CPU, but the largest node has 8 CPU \(a\); lower `cpus_per_worker`",
        ),
        (
            Shape(1, 1, memory_gib=80),
            [node("a", 8)],
            r"needs 80.0 GiB of memory, but the largest node has 64.0 GiB",
        ),
        (
            Shape(1, 8, 1),
            [node("a", 4, 4), node("b", 8)],
            r"no node has 8 CPU, 1 GPU together.*a has 4 CPU, 4 GPU; b has 8 CPU",
        ),
        (
            Shape(5, 1),
            [node("a", 2), node("b", 2)],
            r"lane of 5 workers needs 5 CPU, but the cluster holds 4 of its workers",
        ),
        (Shape(1, 1), [node("a", 8, draining=True)], r"no node that is alive and stays"),
    ],
)
def test_what_can_never_fit_says_value_place_and_remedy(
    shape: Shape, nodes: list[Node], said: str
) -> None:
    import re

    reason = why_never(Cluster(nodes), shape)
    assert reason is not None
    assert re.search(said, reason), reason


def test_other_users_are_no_reason_to_refuse_and_an_autoscaler_counts() -> None:
    assert why_never(Cluster([node(cpus=4, free={"CPU": 0})]), Shape(1, 1)) is None
    groups = [node("up to 3 x gpu", cpus=8, gpus=4, count=3)]
    assert why_never(Cluster([node("head")], groups), Shape(1, 1, 1)) is None
    assert Cluster([node("head")], groups).lanes_at_most(Shape(1, 1, 1)) == 12
    assert Cluster([node("head")], groups).lanes_free(Shape(1, 1, 1)) == 0
    assert why_never(Cluster([node("head")], groups), Shape(13, 1, 1)) is not None


def test_why_a_lane_waits() -> None:
    busy = [node("a", cpus=4, gpus=2, free={"GPU": 0}), node("b", cpus=8)]
    why = why_waiting(Cluster(busy), Shape(2, 1, 1))
    assert why.kind == "in use"
    assert why.text == (
        "2 worker(s) of 1 CPU, 1 GPU each: the cluster has 12 CPU, 12 of them free, 2 GPU, 0 of "
        "them free; "
        "nodes that could hold a worker: a, in use"
    )
    leaving = Cluster([node("a", cpus=4, draining=True)], [node("up to 2 x cpu", cpus=4, count=2)])
    why = why_waiting(leaving, Shape(1, 1))
    assert why.kind == "autoscaler"
    assert "about to be taken away: a; the autoscaler may add one" in why.text
    assert why_waiting(Cluster([]), Shape(1, 1)).kind == "never"


def test_a_study_on_a_cluster() -> None:
    cluster = Cluster(
        [node("a", cpus=4, free={"CPU": 1}), node("b", cpus=2)],
        [node("up to 2 x c", cpus=4, count=2)],
    )
    auto = Operations(lanes="auto")
    found = placed(cluster, shape_of(auto), auto, trials=7)
    assert (found.lanes, found.nodes, found.problems) == (
        7,
        {"a": "4 lane(s)", "b": "2 lane(s)"},
        [],
    )
    assert found.notes == [
        "6 lane(s) fit on the nodes that are there; the autoscaler may add nodes for 1 more",
        "3 lane(s) could start now; others use the rest",
    ]
    assert (
        placed(cluster, shape_of(auto), Operations(lanes="auto", max_lanes=3), trials=7).lanes == 3
    )
    fixed = Operations(lanes=20)
    found = placed(cluster, shape_of(fixed), fixed, trials=100)
    assert found.lanes == 8
    assert found.problems == [
        "8 lane(s) of 1 worker(s) of 1 CPU fit, 20 are asked for; use `--lanes 8` or `auto`, or "
        "add nodes"
    ]
    big = Operations(gpus_per_worker=1)
    assert "GPU" in placed(cluster, shape_of(big), big, trials=7).problems[0]
