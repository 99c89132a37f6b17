"""Where the time of our updates goes, for `update_loop.py --profile`."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from contestants import WARM_UP, Clock, Task, ours
from torch import nn

PARTS = (
    ("optimizer", ("Optimizer.step", "Optimizer.zero_grad")),
    (
        "clipping",
        ("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::_foreach_mul_", "aten::stack"),
    ),
    ("attention", ("aten::scaled_dot_product", "aten::_scaled_dot_product", "ScaledDotProduct")),
    ("matmul", ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")),
    (
        "softmax",
        (
            "aten::logsumexp",
            "aten::_log_softmax",
            "aten::log_softmax",
            "aten::softmax",
            "LogsumexpBackward",
            "LogSoftmaxBackward",
        ),
    ),
    (
        "gather",
        (
            "aten::gather",
            "GatherBackward",
            "aten::index",
            "IndexBackward",
            "aten::embedding",
            "EmbeddingBackward",
        ),
    ),
    (
        "elementwise",
        (
            "aten::mul",
            "aten::add",
            "aten::silu",
            "aten::pow",
            "aten::mean",
            "aten::rsqrt",
            "aten::neg",
            "aten::sub",
            "aten::exp",
            "aten::sum",
            "aten::div",
            "aten::cat",
            "aten::cos",
            "aten::sin",
        ),
    ),
    (
        "copy, fill",
        (
            "aten::copy_",
            "aten::to",
            "aten::_to_copy",
            "aten::zero",
            "aten::fill_",
            "aten::clone",
            "aten::contiguous",
            "aten::empty",
            "aten::resize_",
        ),
    ),
)
"""How the names of a part's operators begin, by part.

An operator belongs to the part of its outermost named ancestor.
"""
MODULES = {
    "RMSNorm": "RMSNorm",
    "Attention": "RoPE",
    "RotaryEmbedding": "RoPE",
    "MLP": "MLP activation",
}
"""The part of a module, by the ending of its class name.

All operators in it, forward and backward, belong to the part, except matrix products and attention.
"""


def part_of(name: str) -> str | None:
    """The part that a name stands for."""
    name = name.removeprefix("autograd::engine::evaluate_function: ")
    return next((part for part, starts in PARTS if name.startswith(starts)), None)


def profile(task: Task, updates: int) -> None:
    """Print where an update's time goes, as self times of operators by part.

    They are wall times, so an idle machine is needed.
    """
    labels = set(MODULES.values())
    ours(task, Clock(WARM_UP, task.workspace.device, warm_up=0))
    handles = []
    for module in task.workspace.policy.model.modules():
        label = next(
            (part for end, part in MODULES.items() if type(module).__name__.endswith(end)), None
        )
        if label:
            handles += label_forward(module, label)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        clock = Clock(updates, task.workspace.device, warm_up=0)
        began = time.perf_counter()
        ours(task, clock)
        total_us = (time.perf_counter() - began) * 1e6
    for handle in handles:
        handle.remove()
    events = profiler.events()
    by_sequence: dict[int, str] = {}
    for event in events:
        if (
            event.sequence_nr >= 0
            and not event.name.startswith("autograd::")
            and (label := forward_part(event, labels))
        ):
            by_sequence[event.sequence_nr] = label
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.name.startswith("ProfilerStep"):
            continue
        spent[whose(event, labels, by_sequence)] += event.self_cpu_time_total
    spent["outside operators (Python)"] = max(0.0, total_us - sum(spent.values()))
    print(
        f"{task.method}: share of {total_us / 1000 / updates:.0f} ms per update while profiled "
        "(CPU side)"
    )
    for part, spent_us in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:28} {spent_us / total_us:6.1%} {spent_us / 1000 / updates:8.1f} ms")


def label_forward(module: nn.Module, label: str) -> list[Any]:
    """Add hooks that put a named range around each forward call."""
    ranges: list[Any] = []

    def enter(*given: Any) -> None:
        ranges.append(torch.profiler.record_function(label))
        ranges[-1].__enter__()

    def leave(*given: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def ancestors(event: Any) -> Iterator[Any]:
    """The event and those that it ran in, from inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


def forward_part(event: Any, labels: set[str]) -> str | None:
    """The labelled module that a forward operator ran in."""
    return next((each.name for each in ancestors(event) if each.name in labels), None)


def whose(event: Any, labels: set[str], by_sequence: dict[int, str]) -> str:
    """The part that an event's own time belongs to.

    Matrix multiplications are a part of their own in any module.
    """
    chain = list(ancestors(event))
    named = [part for each in chain if (part := part_of(each.name))]
    if named and named[-1] in ("optimizer", "attention"):
        return named[-1]
    if "matmul" in named:
        return "matmul"
    module = forward_part(event, labels) or next(
        (
            by_sequence[e.sequence_nr]
            for e in chain
            if e.name.startswith("autograd::") and by_sequence.get(e.sequence_nr)
        ),
        None,
    )
    if module:
        return module
    return named[-1] if named else "other operators, autograd"
