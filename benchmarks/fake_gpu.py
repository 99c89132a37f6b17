"""Launches, host waits and peak memory of an update on a GPU, counted on a machine without one.

Tensors are torch's fake ones on `cuda`: they have shapes and no data, so an update of 7 B weights
takes seconds and no memory. A library of some 60 lines (`fake_device.cpp`, built by g++ at the
first call) is the device that autograd wants to see. What runs is this package's own loop;
attention is the kernel that a GPU would take.

    launches    operators that write device memory. Some are several kernels, none is none
    host waits  what the host cannot go on from before the device has caught up: values read from
                it, blocking copies, synchronisation
    peak        bytes of storages, rounded up to 512 as CUDA's allocator does; without the
                allocator's cache, its fragments, and CUDA's own half GiB

    python benchmarks/fake_gpu.py [--sizes 135m 1b 7b] [--methods descent kl] [--dtype bfloat16]
        [--batch-size 8] [--sequence-length 512] [--micro-batch-size N] [--json FILE]

Values are not real, so nothing here says that a result is right, nor how long anything takes.
"""

import argparse
import json
import os
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fake_device  # isort: skip  # before torch, which looks for a device's hooks once
import numpy as np
import torch
import torch.nn.functional as F
from contestants import Task, trial
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from update_loop import SIZES, random_tokens

from ray_unlearn.spec.data_spec import SPLITS
from ray_unlearn.spec.evaluation_spec import EvaluationSpec
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.operations import Operations
from ray_unlearn.unlearn.batch import ATTENTION, attend_by_document
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.cost import count_update
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.loop import NoCheckpointer, unlearn
from ray_unlearn.unlearn.memory import Memory, memory
from ray_unlearn.unlearn.policy import make_policy
from ray_unlearn.unlearn.workspace import Workspace

BLOCK = 512
"""Bytes that CUDA's allocator rounds up to."""
UPDATES = 2
"""Of the trial: the first one makes the optimizer's states, the last one is counted."""
NOT_LAUNCHED = (
    "empty", "new_empty", "empty_strided", "new_empty_strided", "empty_like", "lift_fresh",
    "record_stream", "_unsafe_view",
)  # fmt: skip
WAITS_BY_NATURE = ("nonzero", "masked_select", "_unique2", "unique_dim")
"""Operators whose result's shape the host must know."""


@dataclass
class Counts:
    """What one update does on the device."""

    launches: Counter[str]
    waits: Counter[str]
    """By what waits, and where in the package."""
    copies: int
    """From the host."""
    peak_gib: float


class FakeGpu(TorchDispatchMode):
    """Counts what is done with fake CUDA tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self.restart()

    def restart(self) -> None:
        """Count anew; what is live stays so."""
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies = 0
        self.peak = self.live

    def counts(self) -> Counts:
        """What was done since `restart`."""
        return Counts(self.launches, self.waits, self.copies, self.peak / 2**30)

    def wait(self, what: str) -> None:
        """Count a wait of the host."""
        self.waits[f"{what} in {_caller(sys._getframe(1))}"] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, named = func._overloadpacket.__name__, kwargs or {}
        given = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        if name == "_local_scalar_dense":
            if given[0].is_cuda:
                self.wait("a value read")
            return _some_value(given[0].dtype)
        if name in WAITS_BY_NATURE and any(t.is_cuda for t in given):
            self.wait(name)
        found = func(*args, **named)
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if name in ("_to_copy", "copy_"):
            self._copied(given, made[0], bool(named.get("non_blocking")) or args[2:3] == (True,))
        if any(t.is_cuda for t in (*given, *made)) and _launches(func):
            self.launches[name] += 1
        for tensor in made:
            self._hold(tensor)
        return found

    def _copied(self, given: list[Tensor], made: Tensor, goes_on: bool) -> None:
        source = given[-1]
        if made.device.type in (source.device.type, "meta") or not made.numel():
            return
        self.copies += made.is_cuda
        if not goes_on:
            self.wait("a copy to the device" if made.is_cuda else "a copy from the device")

    def _hold(self, tensor: Tensor) -> None:
        if not tensor.is_cuda:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            weakref.finalize(storage, self._resize, key, 0)
        self._resize(key, storage.nbytes())

    def _resize(self, key: int, size: int) -> None:
        now = -(-size // BLOCK) * BLOCK
        self.live += now - self._sizes.pop(key, 0)
        if now:
            self._sizes[key] = now
        self.peak = max(self.peak, self.live)


def _launches(func: Any) -> bool:
    if func.namespace == "prim" or func.is_view:
        return False
    return func._overloadpacket.__name__ not in NOT_LAUNCHED


def _some_value(dtype: torch.dtype) -> Any:
    """A value that lets the loop go on."""
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


def _caller(frame: FrameType | None) -> str:
    """The package's innermost line that led here."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if "ray_unlearn" in file.parts[:-1]:
            return f"{file.name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "no line of the package"


def flash(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """SDPA as a GPU would do it, by the kernel for the dtype."""
    assert attn_mask is None, "a mask would take another kernel"
    if query.dtype == torch.float32:
        found = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, is_causal, scale=scale
        )
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, False, scale=scale
        )
    return found[0]


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A deep copy whose storage its views share; of torch's own the views have another one."""
    made, is_parameter = torch.empty_like(tensor.detach()), isinstance(tensor, nn.Parameter)
    found = nn.Parameter(made, tensor.requires_grad) if is_parameter else made
    memo[id(tensor)] = found
    return found


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """A context in which `cuda` is a device whose tensors have no data."""
    assert fake_device.LOADED
    gpu, device = FakeGpu(), torch.cuda
    with ExitStack() as stack:
        for owner, name, stand_in in (
            (device, "synchronize", lambda *given: gpu.wait("synchronize")),
            (device, "reset_peak_memory_stats", lambda *given: None),
            (device, "max_memory_allocated", lambda *given: gpu.peak),
            (device, "set_device", lambda *given: None),
            (Tensor, "pin_memory", lambda tensor, *given: tensor),
            (Tensor, "__deepcopy__", _copied),
            (F, "scaled_dot_product_attention", flash),
        ):
            stack.enter_context(patch.object(owner, name, stand_in))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(gpu)


@dataclass(frozen=True)
class Case:
    """What is counted."""

    size: str
    method: str
    dtype: str = "bfloat16"
    batch_size: int = 8
    sequence_length: int = 512
    micro_batch_size: int | None = None


@dataclass(frozen=True)
class Counted:
    """An update's counts beside what `plan` estimates."""

    case: Case
    launches: int
    waits: dict[str, int]
    copies: int
    peak_gib: float
    plan: Memory
    """With the hidden states that were really kept."""

    @property
    def ratio(self) -> float:
        """The plan over the counted peak."""
        return self.plan.total / self.peak_gib


def config_of(case: Case) -> Any:
    """The transformers config of the case's size."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **SIZES[case.size],
        max_position_embeddings=case.sequence_length,
        use_cache=False,
        dtype=case.dtype,
    )


def opened(case: Case, config: Any) -> Workspace:
    """A workspace of random weights on the fake device, as `Workspace.open` would make it.

    Probes are left out: they look at values.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION, attend_by_document)
    spec = ModelSpec(source=".", dtype=case.dtype)
    with torch.device("cuda"):
        vanilla = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, case.dtype), attn_implementation="sdpa"
        ).eval()
    vanilla.set_attn_implementation(ATTENTION)
    sizes = dict.fromkeys(SPLITS, 2 * case.batch_size)
    splits = {
        name: random_tokens(size, case.sequence_length, config.vocab_size, number, full=True)
        for number, (name, size) in enumerate(sizes.items())
    }
    return Workspace(
        make_policy(vanilla, spec),
        StudyData("random", "random", splits, np.arange(config.vocab_size, dtype=np.int32)),
        vanilla_shapes=[p.shape for p in vanilla.parameters()],
        comm=Comm.single(),
        device=torch.device("cuda"),
        evaluation=EvaluationSpec(count=1, batch_size=case.batch_size),
        micro_batch_size=case.micro_batch_size,
        layout="by_document",
    )


def planned(case: Case, config: Any) -> Memory:
    """What `plan` estimates for the case."""
    spec = SimpleNamespace(
        model=ModelSpec(source=".", dtype=case.dtype),
        operations=Operations(gpus_per_worker=1, micro_batch_size=case.micro_batch_size),
        data=SimpleNamespace(sequence_length=case.sequence_length, sources={}),
        evaluation=SimpleNamespace(sets={}),
    )
    return memory(spec, config, case.micro_batch_size or case.batch_size)  # type: ignore[arg-type]


class _Restarting(NoCheckpointer):
    """Counts the last update alone."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.counts: Counts | None = None

    def between_updates(self, state: Any) -> None:
        self.counts = self._gpu.counts()
        self._gpu.restart()


def count(case: Case) -> Counted:
    """Run a trial of two updates on the fake device, and count the second."""
    config = config_of(case)
    cost = count_update(config, case.sequence_length)
    plan = planned(case, config)
    with fake_gpu() as gpu:
        workspace = opened(case, config)
        workspace.update_cost = cost
        restarting = _Restarting(gpu)
        task = Task(workspace, case.method, case.batch_size)
        (ended,) = unlearn(workspace, trial(task, UPDATES, (UPDATES + 1,)), restarting)
        assert getattr(ended, "status", "") == "complete", ended
        kept = sum(t.nbytes for t in workspace.reference._cached.values()) / 2**30
    found = restarting.counts
    assert found is not None
    return Counted(
        case, sum(found.launches.values()), dict(found.waits), found.copies, found.peak_gib,
        replace(plan, hidden_states=kept),
    )  # fmt: skip


def main() -> None:
    """Print a line per size and method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["135m", "1b", "7b"])
    parser.add_argument("--methods", nargs="+", default=["descent", "kl"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--json", type=Path, help="append a line of JSON per case to this file")
    given = parser.parse_args()
    print(f"{'size':6} {'method':8} {'launches':>9} {'waits':>6} {'copies':>7} {'peak, GiB':>10} "
          f"{'plan, GiB':>10} {'plan/peak':>10}")  # fmt: skip
    for size in given.sizes:
        for method in given.methods:
            case = Case(
                size, method, given.dtype, given.batch_size, given.sequence_length,
                given.micro_batch_size,
            )  # fmt: skip
            found = count(case)
            print(
                f"{size:6} {method:8} {found.launches:9,} {sum(found.waits.values()):6} "
                f"{found.copies:7} {found.peak_gib:10.2f} {found.plan.total:10.2f} "
                f"{found.ratio:10.2f}",
                flush=True,
            )
            if given.json:
                line = asdict(found) | {"plan_gib": found.plan.total}
                with given.json.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
