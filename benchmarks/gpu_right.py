"""Whether a GPU gives what a CPU gives: a step of `gpu_first_run.sh`.

The same trials on both, by method and dtype; heads; exact rounding; checkpoints; adapters; a
sharded group of one, with NCCL and gloo; waits of the host. `python benchmarks/gpu_right.py`
prints a line each, adds it to results.jsonl, and exits with 1 if one failed.
"""

import sys
import tempfile
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import gpu_common as common
import numpy as np
import torch
import torch.distributed as dist
from contestants import Task, trial

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.checkpoint import Checkpointer, Checkpoints, NoCheckpointer
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.optimizer import Rounded, join, load_state, local, split, state_of
from ray_unlearn.unlearn.sharded_model import ShardedModel
from ray_unlearn.unlearn.workspace import Workspace

METHODS = (
    "gradient_ascent", "random_labels", "adversarial_samples", "ascent_descent_in_distribution",
    "ascent_kl_in_distribution", "npo_descent_in_distribution",
)  # fmt: skip
COMPARED = ("forget_loss", "retain_loss", "grad_norm", "forget_nll", "forget_kl")
KL = "ascent_kl_in_distribution"


def config(method: str, steps: int = 4, **more: Any) -> TrialConfig:
    """A short trial with a row after each update."""
    return TrialConfig(
        method=method, learning_rate=1e-4, steps=steps, batch_size=4,
        evaluate_at=tuple(range(1, steps + 1)), seed=0, **more,
    )  # fmt: skip


def rows(
    workspace: Workspace, of: TrialConfig, checkpointer: Checkpointer | None = None
) -> list[dict[str, Any]]:
    """The rows of a trial that must complete."""
    *found, ended = unlearn(workspace, of, checkpointer or NoCheckpointer())
    assert isinstance(ended, Ended)
    assert ended.status == "complete", ended
    return found  # type: ignore[return-value]


def as_on_a_cpu(dtype: str, tolerance: float, head: Any = "fused") -> dict[str, Any]:
    """The largest relative difference of any number of any row between device and CPU."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for device in ("cpu", common.DEVICE):
        workspace = common.opened(device=device, dtype=dtype)
        workspace.head = "fused" if device == "cpu" else head
        for method in METHODS:
            trial_rows = rows(workspace, config(method))
            for name in COMPARED:
                values = [row[name] for row in trial_rows if name in row]
                found.setdefault(f"{method} {name}", {})[device] = np.array(values)
    apart = {
        name: float(np.max(np.abs(v[common.DEVICE] - v["cpu"]) / (1e-3 + np.abs(v["cpu"]))))
        for name, v in found.items()
        if len(v["cpu"])
    }
    worst = sorted(apart.items(), key=lambda item: -item[1])[:3]
    assert worst[0][1] < tolerance, worst
    return {"worst": worst}


def exact_rounding() -> dict[str, Any]:
    """Split float32 weights are the same bits again."""
    exact = torch.randn(1 << 20, device=common.DEVICE)
    high = torch.empty_like(exact, dtype=torch.bfloat16)
    low = torch.empty_like(exact, dtype=torch.int16)
    split(exact, high, low)
    assert torch.equal(join(high, low), exact)
    return {}


def goes_on(dtype: str) -> dict[str, Any]:
    """A trial that is cut off after update 3 of 6 and goes on in a used workspace."""
    workspace, said = common.opened(dtype=dtype), []
    workspace.rounding = "exact"
    whole = rows(workspace, config(KL, 6))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.1-0.pt"

        def keeper(known: tuple[int, ...]) -> Checkpoints:
            return Checkpoints(
                file, None, known, lambda update: update == 3, said.append, said.append, print
            )

        cut = unlearn(workspace, config(KL, 6), keeper(()))
        for _ in range(4):
            next(cut)
        cut.close()  # type: ignore[attr-defined]
        rows(workspace, config("gradient_ascent", 1))
        rest = rows(workspace, config(KL, 6), keeper((1, 2, 3)))
    a, b = whole[-1]["forget_nll"], rest[-1]["forget_nll"]
    assert said.count(3) >= 2, said
    assert abs(a - b) < 1e-3 * abs(a), (a, b)
    return {"undisturbed": a, "continued": b}


def after_out_of_memory() -> dict[str, Any]:
    """A trial that finds no memory, and the next one in that lane."""
    workspace = common.opened()
    expected = rows(workspace, config(KL))[-1]["forget_nll"]
    workspace.micro_batch_size = None
    with_no_room = {"ended": "not tried on a CPU"}
    if common.ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-6)
        try:
            rows(workspace, config(KL))
        except torch.OutOfMemoryError:
            with_no_room = {"ended": "out of memory"}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    again = rows(workspace, config(KL))[-1]["forget_nll"]
    assert abs(again - expected) < 1e-3 * abs(expected)
    return with_no_room


def adapters() -> dict[str, Any]:
    """LoRA on bfloat16 weights."""
    return {"forget_nll": rows(common.opened(lora=4), config(KL))[-1]["forget_nll"]}


def shared_quantities() -> dict[str, Any]:
    """What one lane computes of P_0 and another adopts."""
    workspace = common.opened()
    workspace.adopt(workspace.quantities([KL, "adversarial_samples"]))
    return {"forget_nll": evaluate(workspace)["forget_nll"]}


def waits() -> dict[str, Any]:
    """Host waits of an update, by torch's own account."""
    workspace = common.opened()
    task = Task(workspace, "kl", 4)
    list(unlearn(workspace, trial(task, 2, (9,))))
    if not common.ON_GPU:
        return {"waits": None}
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(unlearn(workspace, trial(task, 3, (9,))))
    torch.cuda.set_sync_debug_mode("default")
    where = Counter(
        f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)
    )
    return {"waits": sum(where.values()) / 3, "where": where.most_common(8)}


def sharded() -> dict[str, Any]:
    """FSDP2 over a group of one: gradients, a step, its state; NCCL and gloo side by side."""
    backend = "cpu:gloo,cuda:nccl" if common.ON_GPU else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        if common.ON_GPU:
            torch.cuda.set_device(torch.device(common.DEVICE))
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        workspace = common.opened()
        whole: Any = workspace.policy
        cut = ShardedModel(whole.vanilla, None, Comm(0, 1), torch.device(common.DEVICE))
        batch = workspace.batch("forget", np.arange(4))
        use = partial(logprob_sum, targets=batch.targets)
        for policy in (whole, cut):
            policy.scored(batch, use).backward()
        pairs = zip(whole.parameters, cut.parameters, strict=True)
        apart = [
            float(
                (a.grad.float() - local(b.grad).view_as(a).float()).norm() / a.grad.float().norm()
            )
            for a, b in pairs
        ]
        assert max(apart) < 3e-2, max(apart)
        for rounding in ("stochastic", "exact"):
            optimizer = Rounded(cut.parameters, 1e-4, rounding=rounding)  # type: ignore[arg-type]
            optimizer.step()
            load_state(optimizer, state_of(optimizer))
            optimizer.step()
        cut.reset(0)
        tensor, box = torch.ones(4, device=common.DEVICE), [1]
        dist.all_reduce(tensor)
        dist.broadcast_object_list(box, src=0)
        dist.destroy_process_group()
    return {"gradients_apart": max(apart)}


def main() -> int:
    """Run all; 1 if one failed."""
    steps: dict[str, Any] = {
        "float32 as on a CPU": partial(as_on_a_cpu, "float32", 2e-3),
        "bfloat16 as on a CPU": partial(as_on_a_cpu, "bfloat16", 8e-2),
        "plain head": partial(as_on_a_cpu, "float32", 2e-3, "plain"),
        "exact rounding": exact_rounding,
        "checkpoint float32": partial(goes_on, "float32"),
        "checkpoint bfloat16": partial(goes_on, "bfloat16"),
        "after out of memory": after_out_of_memory,
        "adapters": adapters,
        "shared quantities": shared_quantities,
        "host waits": waits,
        "sharded": sharded,
    }
    if common.ON_GPU:
        steps["liger head"] = partial(as_on_a_cpu, "float32", 5e-3, "liger")
    return int(not all([common.tried(name, run) for name, run in steps.items()]))


if __name__ == "__main__":
    sys.exit(main())
