"""Where the time of a GPU goes, and what would lower it: steps of `gpu_first_run.sh`.

update    an update of ours; kernels launched, share of the time that the GPU is busy
chunks    the head by the size of its chunk (`logprobs.CUDA_CHUNK_ELEMENTS`)
documents an update by documents per sequence: SDPA runs once for each
varlen    one layer's attention over all documents in one call (torch's `varlen_attn`), and
          by document
cudnn     SDPA with cuDNN's kernel, which the package switches off, for lengths never seen
liger     the head's sums by Liger's kernels, and ours
reset     weights restored in place, against a copy of as many bytes
graphs    a padded step replayed as CUDA graphs, one for each bucket of lengths. An experiment:
          the loop's batches are ragged rows
keep      checkpoint, restore, kept weights, evaluation; peak memory against the plan
lanes     several processes on one GPU, each with its share: updates per second of all

python benchmarks/gpu_speed.py STEP ... [--size 135m]
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_common as common
import numpy as np
import torch
import torch.nn.functional as F
from contestants import Task, trial
from torch import Tensor

from ray_unlearn.unlearn import head as plain_head
from ray_unlearn.unlearn import liger as liger_head
from ray_unlearn.unlearn import logprobs
from ray_unlearn.unlearn.checkpoint import TrialState, save_weights
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.gpu import ready_gpu
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.optimizer import make_optimizer

BUCKETS = (128, 256, 384, 512)
LENGTH = 2048 if common.ON_GPU else 64
BATCH = 2


def update(size: str) -> dict[str, Any]:
    """Milliseconds, kernels and busy share of an update (ascent + descent)."""
    workspace = common.opened(size, length=LENGTH, batch=BATCH)
    found = {"ms": common.update_ms(workspace, "descent", BATCH), "peak_gib": common.peak_gib()}
    if not common.ON_GPU:
        return found
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profiled:
        ms = common.update_ms(workspace, "descent", BATCH, 3)
    kernels = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy_ms = sum(e.device_time_total for e in kernels) / 1000 / (2 + 2 * 3)
    print(profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=14))
    return found | {"profiled_ms": ms, "busy_ms": busy_ms, "kernels": len(kernels) / (2 + 2 * 3)}


def chunks(size: str) -> dict[str, Any]:
    """Milliseconds and peak of the head's forward and backward pass by elements of a chunk."""
    workspace = common.opened(size, length=LENGTH, batch=BATCH)
    head = workspace.policy.model.get_output_embeddings()
    n, before, found = BATCH * LENGTH, logprobs.CUDA_CHUNK_ELEMENTS, {}
    targets = torch.randint(0, head.out_features, (n,), device=common.DEVICE)

    def once() -> None:
        hidden = torch.randn(n, head.in_features, device=common.DEVICE, dtype=head.weight.dtype)
        plain_head.logprob_sum(hidden.requires_grad_(), head, targets).backward()

    try:
        for power in (24, 26, 27, 28, 29):
            logprobs.CUDA_CHUNK_ELEMENTS = 2**power
            if common.ON_GPU:
                torch.cuda.reset_peak_memory_stats()
            found[f"2^{power}"] = (common.milliseconds(once), common.peak_gib())
    finally:
        logprobs.CUDA_CHUNK_ELEMENTS = before
    return {"ms_and_gib": found}


def documents(size: str) -> dict[str, Any]:
    """Milliseconds of an update by documents per sequence."""
    workspace, found = common.opened(size, length=LENGTH, batch=BATCH), {}
    for many in (1, 4, 16, 64):
        cut = (np.arange(LENGTH) * many // LENGTH).astype(np.int32)
        for tokens in workspace.data.splits.values():
            tokens.document[:] = np.arange(len(tokens))[:, None] * many + cut
        found[many] = common.update_ms(workspace, "descent", BATCH, 3)
    return {"ms": found}


def varlen(size: str) -> dict[str, Any]:
    """One layer's attention, forward and backward: one call, and a call per document."""
    if not common.ON_GPU:
        return {"ms": "a GPU's kernel"}
    from torch.nn.attention.varlen import varlen_attn

    n, heads, width, found = 4096, 32, 64, {}
    q = torch.randn(n, heads, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    for many in (2, 32, 128):
        ends = torch.linspace(0, n, many + 1, device="cuda").round().int()
        lengths = ends.diff().tolist()
        longest = max(lengths)

        def one(ends: Tensor = ends, longest: int = longest) -> None:
            varlen_attn(q, q, q, ends, ends, longest, longest, is_causal=True).sum().backward()

        def each(lengths: list[int] = lengths) -> None:
            parts = [part.transpose(0, 1)[None] for part in q.split(lengths)]
            done = [F.scaled_dot_product_attention(p, p, p, is_causal=True)[0] for p in parts]
            torch.cat(done, 1).sum().backward()

        found[many] = {run.__name__: common.milliseconds(run) for run in (one, each)}
    return {"ms": found}


def cudnn(size: str) -> dict[str, Any]:
    """Milliseconds of SDPA at 32 lengths that were never seen, with cuDNN's kernel and without."""
    if not common.ON_GPU:
        return {"ms": "a GPU's kernel"}
    found = {}
    for wanted, first in ((False, 600), (True, 700)):
        torch.backends.cuda.enable_cudnn_sdp(wanted)

        def lengths(first: int = first) -> None:
            for length in range(first, first + 32):
                q = torch.randn(4, 32, length, 64, device="cuda", dtype=torch.bfloat16)
                F.scaled_dot_product_attention(q, q, q, is_causal=True)

        found["with" if wanted else "without"] = common.milliseconds(lengths, 1, 0)
    torch.backends.cuda.enable_cudnn_sdp(False)
    return {"ms": found}


def liger(size: str) -> dict[str, Any]:
    """Milliseconds and peak of the head's sums: ours, and Liger's."""
    if not common.ON_GPU:
        return {"ms": "Triton's kernels"}
    workspace = common.opened(size, length=LENGTH, batch=BATCH)
    head = workspace.policy.model.get_output_embeddings()
    n = BATCH * LENGTH
    shape = {"device": common.DEVICE, "dtype": head.weight.dtype}
    targets = torch.randint(0, head.out_features, (n,), device=common.DEVICE)
    reference = torch.randn(n, head.in_features, **shape)
    quantities: dict[str, Callable[[Tensor], Tensor]] = {
        "fused logprob": lambda h: plain_head.logprob_sum(h, head, targets),
        "liger logprob": lambda h: liger_head.liger_logprob_sum(h, head, targets),
        "fused kl": lambda h: plain_head.kl_sum(h, head, reference, head),
        "liger kl": lambda h: liger_head.liger_kl_sum(h, head, reference, head),
    }
    found = {}
    for name, quantity in quantities.items():

        def once(quantity: Callable[[Tensor], Tensor] = quantity) -> None:
            hidden = torch.randn(n, head.in_features, **shape).requires_grad_()
            quantity(hidden).backward()

        torch.cuda.reset_peak_memory_stats()
        found[name] = (common.milliseconds(once), common.peak_gib())
    return {"ms_and_gib": found}


def reset(size: str) -> dict[str, Any]:
    """Weights restored in place against a copy of as many bytes, and the bandwidth of both."""
    workspace = common.opened(size)
    size_bytes = sum(p.nbytes for p in workspace.parameters)
    source = torch.ones(size_bytes // 4, device=common.DEVICE)
    target = torch.empty_like(source)
    copy = common.milliseconds(lambda: target.copy_(source))
    restored = common.milliseconds(lambda: workspace.reset(0))
    return {
        "gib": size_bytes / 2**30, "copy_ms": copy, "reset_ms": restored,
        "over_the_copy": restored / copy,
        "read_and_written_gb_per_s": 2 * size_bytes / restored / 1e6,
    }  # fmt: skip


def graphs(size: str) -> dict[str, Any]:
    """Milliseconds of forward and backward pass of 8 padded sequences, eager and replayed."""
    model: Any = common.opened(size, length=max(BUCKETS)).policy.model
    model.set_attn_implementation("sdpa")
    found: dict[int, Any] = {}
    for length in BUCKETS if common.ON_GPU else BUCKETS[:1]:
        ids = torch.randint(0, model.config.vocab_size, (8, length), device=common.DEVICE)

        def step(ids: Tensor = ids) -> None:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            hidden.float().square().mean().backward()

        eager = common.milliseconds(step, warm_up=3)
        found[length] = {"eager_ms": eager}
        if common.ON_GPU:
            found[length] |= _replayed(model, step, eager)
    return {"by_length": found}


def _replayed(model: Any, step: Callable[[], None], eager: float) -> dict[str, float]:
    """The same step captured once; its gradients lie in memory of their own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    graph, began = torch.cuda.CUDAGraph(), time.perf_counter()
    with torch.cuda.graph(graph):
        step()
    captured = time.perf_counter() - began
    ms = common.milliseconds(graph.replay)
    return {"replayed_ms": ms, "capture_s": captured, "gain": eager / ms}


def keep(size: str) -> dict[str, Any]:
    """Seconds of what lies beside updates, and the peak of a KL update."""
    began = time.perf_counter()
    workspace = common.opened(size, length=LENGTH // 2, batch=BATCH)
    common.finished()
    found: dict[str, Any] = {"open_s": time.perf_counter() - began}
    config = trial(Task(workspace, "kl", BATCH), 2, (9,))
    list(unlearn(workspace, config))
    found["peak_gib"] = common.peak_gib()
    if common.ON_GPU:
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    optimizer = workspace.last_optimizer or make_optimizer(workspace.parameters, config, "exact")
    state = TrialState(workspace, config, optimizer, Meter(workspace, config))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.1-0.pt"
        steps: dict[str, Callable[[], Any]] = {
            "save": lambda: state.save(file),
            "restore": lambda: state.restore(file, ()),
            "save_weights": lambda: save_weights(workspace.policy.weights(), file),
            "reset": workspace.reset,
            "evaluate": lambda: evaluate(workspace),
        }
        for name, run in steps.items():
            found[f"{name}_s"] = common.milliseconds(run, 1, 0) / 1000
            if name == "save":
                found["checkpoint_gib"] = file.stat().st_size / 2**30
    return found


def lanes(size: str) -> dict[str, Any]:
    """Updates per second of 1, 2 and 4 processes that share the GPU."""
    found = {}
    for many in (1, 2, 4) if common.ON_GPU else (1, 2):
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(many), context.Queue()
        processes = [
            context.Process(target=_lane, args=(size, many, barrier, results)) for _ in range(many)
        ]
        for process in processes:
            process.start()
        found[many] = sum(results.get(timeout=300) for _ in processes)
        for process in processes:
            process.join()
    return {"updates_per_s": found, "gain": found[max(found)] / found[1]}


def _lane(size: str, many: int, barrier: Any, results: Any) -> None:
    ready_gpu(torch.device(common.DEVICE), 1 / many)
    workspace = common.opened(size, length=min(LENGTH, 512), batch=8)
    common.update_ms(workspace, "descent", 8, 1)
    barrier.wait()
    results.put(1000 / common.update_ms(workspace, "descent", 8, 10 if common.ON_GPU else 1))


STEPS: dict[str, Callable[[str], dict[str, Any]]] = {
    step.__name__: step
    for step in (update, chunks, documents, varlen, cudnn, liger, reset, graphs, keep, lanes)
}


def main() -> int:
    """Run the steps that are named; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="+", choices=list(STEPS), metavar="STEP")
    parser.add_argument("--size", default="135m")
    given = parser.parse_args()
    done = [common.tried(f"{s} {given.size}", partial(STEPS[s], given.size)) for s in given.steps]
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
