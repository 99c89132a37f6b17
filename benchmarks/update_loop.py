"""What one update costs: this package's loop beside the ways it is usually written, and beside its matrix multiplications.

    ours     `ray_unlearn.unlearn.loop.unlearn`, as a lane runs it (no evaluation, no checkpoint)
    Trainer  a `transformers.Trainer` whose `compute_loss` makes a forward pass of the forget and one of the retain
             sequences, with whole logits; KL makes a forward pass of a frozen copy of the model in every update
    plain    the same loss in a loop written by hand: AdamW, clipping, nothing else
    peer     OpenUnlearning's `GradDiff` in the same Trainer, where `--peer` names a checkout of it
    floor    the matrix multiplications and the attention of the same shapes alone: linear layers and head once forward and
             twice backward, on the real lengths; with KL also P_0's head. Nothing is faster without smaller shapes

All work on one copy of the model, on the same sequences in the same order, padded to the longest of the batch where a
collator does the padding. Before anything is timed the total losses of the first updates are compared. Rounds are
interleaved; a round's first updates are left out, so P_0's hidden states, which a lane computes once, are not in ours.
`cpu` is the process's CPU time, in which a busy neighbour shows least.

    python benchmarks/update_loop.py [--updates 30] [--rounds 5] [--methods ascent descent kl] [--profile]
    python benchmarks/update_loop.py --device cuda --config 7b --sequence-length 2048 --batch-size 2

`--config` builds a model of random weights instead of loading one; with `--device cuda` the table has tokens/s, model-FLOPs
utilisation and peak memory too. Where `accelerate` is not installed, Trainer and peer are left out.
"""

import argparse
import gc
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import transformers
    from torch import Tensor, nn
    from torch.utils.data import Dataset, SequentialSampler

    from ray_unlearn.spec.study import SPLITS, EvaluationSpec, ModelSpec, Operations, load_study
    from ray_unlearn.spec.trial import TrialConfig
    from ray_unlearn.unlearn.batches import batch
    from ray_unlearn.unlearn.checkpoint import NoKeeper
    from ray_unlearn.unlearn.comm import Comm
    from ray_unlearn.unlearn.data import StudyData, TokenSet, prepare
    from ray_unlearn.unlearn.loop import Ended, unlearn
    from ray_unlearn.unlearn.model import head_of, make_ready
    from ray_unlearn.unlearn.workspace import Workspace
except ImportError as error:
    sys.exit(f"{error}\nneeded: torch transformers numpy scipy pydantic pyyaml safetensors filelock (no ray)")

NAMES = {
    "ascent": "gradient_ascent",
    "descent": "ascent_descent_in_distribution",
    "kl": "ascent_kl_in_distribution",
}
LEARNING_RATE, BETAS, CLIP, SEED = 1e-4, (0.9, 0.999), 1.0, 0
CHECKED, WARM_UP = 3, 3
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "1b": {"vocab_size": 128_256, "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "7b": {"vocab_size": 32_000, "hidden_size": 4_096, "intermediate_size": 11_008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False},
}  # fmt: skip
"""The shapes of Llama 3.2 1B (1.24 B parameters) and Llama 2 7B (6.74 B)."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16."""

Batch = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Task:
    """One method on one workspace: all that a contestant is given."""

    workspace: Workspace
    method: str
    batch_size: int

    @property
    def splits(self) -> dict[str, str]:
        """Term -> split its sequences come from."""
        return {"forget": "forget"} if self.method == "ascent" else {"forget": "forget", "retain": "retain"}


@dataclass(frozen=True)
class Cost:
    """Of one update, a round's mean."""

    wall_ms: float
    cpu_ms: float
    peak_gib: float


class Clock:
    """Told of each finished update; measures from the end of the warm-up on. The device is waited for only at both ends."""

    def __init__(self, updates: int, device: torch.device, warm_up: int = WARM_UP) -> None:
        self.total = warm_up + updates
        self._ends = (warm_up, self.total)
        self._device = device
        self._done = 0
        self._stamps: list[tuple[float, float]] = []
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def tick(self) -> None:
        """An update has ended."""
        self._done += 1
        if self._done in self._ends:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._stamps.append((time.perf_counter(), time.process_time()))

    def cost(self) -> Cost:
        """What an update has cost."""
        (wall, cpu), (wall_end, cpu_end) = self._stamps
        scale = 1000 / (self._ends[1] - self._ends[0])
        peak = torch.cuda.max_memory_allocated(self._device) / 2**30 if self._device.type == "cuda" else float("nan")
        return Cost((wall_end - wall) * scale, (cpu_end - cpu) * scale, peak)


# --- ours ---------------------------------------------------------------------------------------------------------------


class Ticking(NoKeeper):
    """Keeps nothing, but hears of every update."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def between_updates(self, state: Any) -> None:
        """Called before the first update too."""
        if state.meter.update:
            self._clock.tick()


def trial(task: Task, steps: int, evaluate_at: tuple[int, ...]) -> TrialConfig:
    """The configuration that all contestants follow."""
    return TrialConfig(
        method=NAMES[task.method], learning_rate=LEARNING_RATE, steps=steps, batch_size=task.batch_size,
        max_grad_norm=CLIP, adam_beta1=BETAS[0], adam_beta2=BETAS[1], evaluate_at=evaluate_at, seed=SEED,
    )  # fmt: skip


def ours(task: Task, clock: Clock) -> None:
    """A trial whose evaluation never comes."""
    (end,) = unlearn(task.workspace, trial(task, clock.total, (clock.total + 1,)), Ticking(clock))
    assert isinstance(end, Ended)
    assert end.status == "complete", end


def our_losses(task: Task) -> list[float]:
    """Total losses of the first updates, from the rows."""
    rows = list(unlearn(task.workspace, trial(task, CHECKED, tuple(range(1, CHECKED + 1)))))[:-1]
    assert all(not isinstance(row, Ended) for row in rows), rows
    return [row["forget_loss"] + row.get("retain_loss", 0.0) for row in rows]  # type: ignore[union-attr]


# --- as it is usually written -------------------------------------------------------------------------------------------


class Pairs(Dataset):  # type: ignore[type-arg]
    """The sequences of update 1, 2, 3 ... one after the other, unpadded, in the order that our loop takes them."""

    def __init__(self, task: Task, updates: int) -> None:
        self._items: list[Batch] = []
        splits = {term: task.workspace.data.splits[split] for term, split in task.splits.items()}
        for update in range(1, updates + 1):
            chosen = {
                term: batch(SEED, task.splits[term], update, task.batch_size, len(tokens))[0]
                for term, tokens in splits.items()
            }
            for place in range(task.batch_size):
                self._items.append({term: one(splits[term], int(chosen[term][place])) for term in splits})

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Batch:
        return self._items[index]


def one(tokens: TokenSet, index: int) -> dict[str, Tensor]:
    """One sequence without its padding."""
    assert tokens.position_ids is None, "packed sequences: public code has no such thing"
    ids = torch.from_numpy(tokens.input_ids[index][tokens.document[index] >= 0]).long()
    return {"input_ids": ids, "labels": ids}


def collate(items: list[Batch]) -> Batch:
    """Pad each part on the right to its longest sequence."""
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    return {
        term: {
            "input_ids": pad([item[term]["input_ids"] for item in items]),
            "labels": pad([item[term]["labels"] for item in items], padding_value=-100),
            "attention_mask": pad([torch.ones_like(item[term]["input_ids"]) for item in items]),
        }
        for term in items[0]
    }


def usual_loss(policy: Any, reference: Any, method: str, inputs: Batch) -> Tensor:
    """-NLL(forget) + NLL(retain) or KL(P_0 || P) on retain: whole logits, one forward pass per part and model."""
    loss = -policy(**inputs["forget"]).loss
    if method == "descent":
        loss = loss + policy(**inputs["retain"]).loss
    if method == "kl":
        retain = inputs["retain"]
        with torch.no_grad():
            theirs = F.log_softmax(reference(**retain).logits[:, :-1].float(), dim=-1)
        mine = F.log_softmax(policy(**retain).logits[:, :-1].float(), dim=-1)
        per_token = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)
        loss = loss + per_token[retain["labels"][:, 1:] != -100].mean()
    return loss


def frozen(task: Task) -> Any:
    """A second copy of the vanilla model, where the loss needs one."""
    return deepcopy(task.workspace.policy).requires_grad_(False).eval() if task.method == "kl" else None


def plain(task: Task, clock: Clock, losses: list[float] | None = None) -> None:
    """A loop written by hand."""
    workspace = task.workspace
    workspace.reset()
    reference, pairs, size = frozen(task), Pairs(task, clock.total), task.batch_size
    optimizer = torch.optim.AdamW(workspace.policy.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0)
    for update in range(clock.total):
        inputs = collate([pairs[update * size + place] for place in range(size)])
        inputs = {t: {k: v.to(workspace.device) for k, v in part.items()} for t, part in inputs.items()}
        loss = usual_loss(workspace.policy, reference, task.method, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(workspace.policy.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if losses is not None:
            losses.append(loss.item())
        clock.tick()


def with_trainer(task: Task, clock: Clock, losses: list[float] | None = None, peer: ModuleType | None = None) -> None:
    """`transformers.Trainer` with the usual loss, or with that of OpenUnlearning's `GradDiff`."""
    workspace, base = task.workspace, transformers.Trainer if peer is None else peer.GradDiff

    class Unlearner(base):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *given: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **given: Any) -> Tensor:
            if peer is None:
                loss = usual_loss(model, reference, task.method, inputs)
            else:
                loss = super().compute_loss(model, inputs)
            if losses is not None:
                losses.append(loss.item())
            return loss

    class Ticks(transformers.TrainerCallback):
        def on_step_end(self, *given: Any, **more: Any) -> None:
            clock.tick()

    workspace.reset()
    reference = frozen(task) if peer is None else None
    more = {} if peer is None else {"retain_loss_type": "KL" if task.method == "kl" else "NLL"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=clock.total, per_device_train_batch_size=task.batch_size,
            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1],
            weight_decay=0.0, max_grad_norm=CLIP, use_cpu=workspace.device.type == "cpu", report_to="none",
            save_strategy="no", logging_strategy="no", logging_nan_inf_filter=False, disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = Unlearner(
            model=workspace.policy, args=arguments, train_dataset=Pairs(task, clock.total), data_collator=collate,
            callbacks=[Ticks()], **more,
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    workspace.policy.eval()


def load_peer(checkout: Path) -> ModuleType:
    """OpenUnlearning's `GradDiff` over a bare Trainer: its own base classes need hydra and deepspeed, for nothing timed."""

    def load(name: str, file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    folder = next((f for f in (checkout / "src" / "trainer", checkout / "trainer", checkout) if f.is_dir()), checkout)
    base = ModuleType("trainer.unlearn.base")
    base.UnlearnTrainer = transformers.Trainer  # type: ignore[attr-defined]
    sys.modules |= {
        "trainer": ModuleType("trainer"),
        "trainer.unlearn": ModuleType("trainer.unlearn"),
        base.__name__: base,
    }
    try:
        load("trainer.utils", folder / "utils.py")
        return load("trainer.unlearn.grad_diff", folder / "unlearn" / "grad_diff.py")
    except (OSError, ImportError) as error:
        sys.exit(f"--peer {checkout}: not a checkout of OpenUnlearning that can be used: {error}")


# --- the floor ----------------------------------------------------------------------------------------------------------


def floor(task: Task, clock: Clock) -> None:
    """The matrix multiplications and attention of an update, with nothing around them."""
    workspace = task.workspace
    workspace.reset()
    work: list[Callable[[], None]] = []
    for split in task.splits.values():
        tokens = workspace.data.splits[split]
        rows = [batch(SEED, split, update, task.batch_size, len(tokens))[0] for update in range(1, 21)]
        lengths = (tokens.document >= 0).sum(axis=1)
        longest = round(np.mean([lengths[r].max() for r in rows]))
        targets = round(np.mean([tokens.target_mask[r].sum() for r in rows]))
        work += list(linear_layers(workspace.policy, task.batch_size * longest, targets))
        work += [attention(workspace.policy, task.batch_size, longest)] * workspace.policy.config.num_hidden_layers
        if task.method == "kl" and split != "forget":
            work.append(multiply(head_of(workspace.policy), targets, backward=False))
    for _ in range(clock.total):
        for step in work:
            step()
        clock.tick()


def linear_layers(policy: Any, positions: int, targets: int) -> Iterator[Callable[[], None]]:
    """Every linear layer on all positions, the head on the real targets."""
    head = head_of(policy)
    for module in policy.modules():
        if isinstance(module, nn.Linear):
            yield multiply(module, targets if module is head else positions)


def multiply(layer: nn.Linear, rows: int, backward: bool = True) -> Callable[[], None]:
    """y = x W^T, and the gradients dx = dy W, dW = dy^T x."""
    weight = layer.weight.detach()
    x = weight.new_ones(rows, layer.in_features)
    y = weight.new_ones(rows, layer.out_features)

    def run() -> None:
        torch.mm(x, weight.t())
        if backward:
            torch.mm(y, weight)
            torch.mm(y.t(), x)

    return run


def attention(policy: Any, sequences: int, length: int) -> Callable[[], None]:
    """Causal attention of one layer, forward and backward."""
    config = policy.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (sequences, config.num_attention_heads, length, width)
    weight = head_of(policy).weight
    q, k, v = (torch.randn(shape, dtype=weight.dtype, device=weight.device, requires_grad=True) for _ in range(3))
    gradient = torch.randn(shape, dtype=weight.dtype, device=weight.device)

    def run() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), gradient)

    return run


# --- measuring ----------------------------------------------------------------------------------------------------------

Contestant = Callable[[Task, Clock], None]


def measure(task: Task, contestants: dict[str, Contestant], updates: int, rounds: int) -> dict[str, list[Cost]]:
    """Costs per contestant and round; the rounds are interleaved. One that runs out of memory has none."""
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            clock = Clock(updates, task.workspace.device)
            try:
                run(task, clock)
                costs[name].append(clock.cost())
            except torch.OutOfMemoryError:
                print(f"{task.method}, {name}: out of memory", flush=True)
            task.workspace.policy.zero_grad(set_to_none=True)
    return costs


def check_losses(task: Task, recorders: dict[str, Callable[..., None]], tolerance: float) -> None:
    """The contestants minimise the same thing.

    Raises:
        AssertionError: the losses of the first updates differ.
    """
    attention_before = task.workspace.policy.config._attn_implementation
    expected = our_losses(task)
    attention_now = task.workspace.policy.config._attn_implementation
    assert attention_now == attention_before, f"our loop changed the policy's attention to {attention_now}"
    for name, run in recorders.items():
        found: list[float] = []
        run(task, Clock(CHECKED, task.workspace.device, warm_up=0), losses=found)
        worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
        print(f"{task.method}: losses of updates 1 to {CHECKED} of ours and {name} differ by at most {worst:.1e}")
        assert worst < tolerance, (name, expected, found)


def show(task: Task, costs: dict[str, list[Cost]]) -> None:
    """Medians over the rounds, and time over ours: the median of the rounds' ratios with their range."""
    mine = costs["ours"]
    print(f"{task.method:8} {'cpu ms':>8} {'over ours':>18} {'wall ms':>9} {'over ours':>18}")
    for name, found in costs.items():
        line = f"  {name:6}"
        for kind in ("cpu_ms", "wall_ms"):
            values = [getattr(cost, kind) for cost in found]
            ratio = ""
            if name != "ours" and len(found) == len(mine):
                ratios = [theirs / getattr(own, kind) for theirs, own in zip(values, mine, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            line += f" {statistics.median(values):8.1f} {ratio:>18} " if values else " out of memory "
        print(line.rstrip(), flush=True)
    if task.workspace.device.type == "cuda":
        show_device(task, costs)


def show_device(task: Task, costs: dict[str, list[Cost]]) -> None:
    """Tokens per second, model-FLOPs utilisation and peak memory."""
    policy = task.workspace.policy
    length = task.workspace.data.splits["forget"].input_ids.shape[1]
    tokens = len(task.splits) * task.batch_size * length
    embedding = 0 if policy.config.tie_word_embeddings else policy.get_input_embeddings().weight.numel()
    weights = sum(parameter.numel() for parameter in policy.parameters()) - embedding
    causal = 6 * policy.config.num_hidden_layers * policy.config.hidden_size * length
    flops = tokens * (6 * weights + causal)
    name = torch.cuda.get_device_name(task.workspace.device)
    peak = next((value for key, value in PEAK_FLOPS.items() if key in name), float("nan"))
    for contestant, found in costs.items():
        if found and contestant != "floor":
            seconds = statistics.median(cost.wall_ms for cost in found) / 1000
            print(
                f"{task.method:8} {contestant:8} {tokens / seconds:10,.0f} tokens/s, MFU {flops / seconds / peak:.1%}, "
                f"peak {max(cost.peak_gib for cost in found):.1f} GiB",
                flush=True,
            )


# --- profile ------------------------------------------------------------------------------------------------------------

PARTS = (
    ("optimizer", ("Optimizer.step", "Optimizer.zero_grad")),
    ("clipping", ("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::_foreach_mul_", "aten::stack")),
    ("attention", ("aten::scaled_dot_product", "aten::_scaled_dot_product", "ScaledDotProduct")),
    ("matmul", ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")),
    ("softmax", ("aten::logsumexp", "aten::_log_softmax", "aten::log_softmax", "aten::softmax", "LogsumexpBackward", "LogSoftmaxBackward")),
    ("gather", ("aten::gather", "GatherBackward", "aten::index", "IndexBackward", "aten::embedding", "EmbeddingBackward")),
    ("elementwise", ("aten::mul", "aten::add", "aten::silu", "aten::pow", "aten::mean", "aten::rsqrt", "aten::neg",
                     "aten::sub", "aten::exp", "aten::sum", "aten::div", "aten::cat", "aten::cos", "aten::sin")),
    ("copy, fill", ("aten::copy_", "aten::to", "aten::_to_copy", "aten::zero", "aten::fill_", "aten::clone",
                    "aten::contiguous", "aten::empty", "aten::resize_")),
)  # fmt: skip
"""Part -> how its operators' names begin. An operator belongs to the part of its outermost named ancestor."""
MODULES = {"RMSNorm": "RMSNorm", "Attention": "RoPE", "RotaryEmbedding": "RoPE", "MLP": "MLP activation"}
"""How a module's class name ends -> the part of all in it, forward and backward, but matrix products and attention."""


def part_of(name: str) -> str | None:
    """The part that a name stands for."""
    name = name.removeprefix("autograd::engine::evaluate_function: ")
    return next((part for part, starts in PARTS if name.startswith(starts)), None)


def profile(task: Task, updates: int) -> None:
    """Print where an update's time goes: self times of operators by part (wall: an idle machine is needed)."""
    labels = set(MODULES.values())
    ours(task, Clock(WARM_UP, task.workspace.device, warm_up=0))
    handles = []
    for module in task.workspace.policy.modules():
        label = next((part for end, part in MODULES.items() if type(module).__name__.endswith(end)), None)
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
    print(f"{task.method}: share of {total_us / 1000 / updates:.0f} ms per update while profiled (CPU side)")
    for part, spent_us in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:28} {spent_us / total_us:6.1%} {spent_us / 1000 / updates:8.1f} ms")


def label_forward(module: nn.Module, label: str) -> list[Any]:
    """Hooks that put a named range around each forward call."""
    ranges: list[Any] = []

    def enter(*given: Any) -> None:
        ranges.append(torch.profiler.record_function(label))
        ranges[-1].__enter__()

    def leave(*given: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def ancestors(event: Any) -> Iterator[Any]:
    """The event and what it ran in, from inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


def forward_part(event: Any, labels: set[str]) -> str | None:
    """The labelled module that a forward operator ran in."""
    return next((each.name for each in ancestors(event) if each.name in labels), None)


def whose(event: Any, labels: set[str], by_sequence: dict[int, str]) -> str:
    """The part an event's own time belongs to. Matrix multiplications stay themselves in whatever module."""
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


# --- model and data -----------------------------------------------------------------------------------------------------


def demo(source: str, device: str) -> Workspace:
    """A study's model on the data of `studies/demo.yaml`."""
    spec = load_study(Path(__file__).parent.parent / "studies" / "demo.yaml")
    model = spec.model.model_copy(update={"source": source})
    make_ready(model)
    if source.startswith("demo:"):
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"source": source})})
    data = prepare(spec.data, model)
    return Workspace.open(model, data, spec.evaluation, spec.operations, Comm.single(), device)


def random_weights(given: argparse.Namespace) -> Workspace:
    """A Llama of random weights and random token sequences of full length, but every eighth."""
    torch.manual_seed(SEED)
    length = given.sequence_length
    config = transformers.LlamaConfig(**SIZES[given.config], max_position_embeddings=length, use_cache=False)
    config.dtype = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(given.device):
            transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype).save_pretrained(folder)
        sizes = {name: given.retain_sequences if name == "retain" else 2 * given.batch_size for name in SPLITS}
        splits = {
            name: random_tokens(size, length, config.vocab_size, i) for i, (name, size) in enumerate(sizes.items())
        }
        data = StudyData("random", "random", splits, np.arange(config.vocab_size, dtype=np.int32))
        model = ModelSpec(source=folder, dtype=given.dtype)
        evaluation = EvaluationSpec(count=1, batch_size=given.batch_size)
        return Workspace.open(model, data, evaluation, Operations(), Comm.single(), given.device)


def random_tokens(size: int, length: int, vocabulary: int, seed: int) -> TokenSet:
    """One document per sequence; every eighth fills three quarters of it."""
    generator = np.random.default_rng(seed)
    document = np.repeat(np.arange(size, dtype=np.int32)[:, None], length, axis=1)
    document[::8, 3 * length // 4 :] = -1
    ids = generator.integers(0, vocabulary, (size, length), dtype=np.int32)
    return TokenSet(ids, document, np.full(size, 3 * length, dtype=np.int32), np.arange(size) % 2 == 0)


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        name = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, python {platform.python_version()}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load {load}; {versions}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo:shakespeare", help="`demo:<domain>`, or a folder or hub id")
    parser.add_argument("--config", choices=list(SIZES), help="random weights of this size instead of a model")
    parser.add_argument("--sequence-length", type=int, default=128, help="with --config")
    parser.add_argument("--retain-sequences", type=int, default=512, help="with --config: whether P_0's states fit")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="with --config; default bfloat16 on cuda")
    parser.add_argument("--methods", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--batch-size", type=int, default=8, help="forget sequences, and as many retain sequences")
    parser.add_argument("--updates", type=int, default=30, help="timed updates per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", type=Path, help="checkout of OpenUnlearning")
    parser.add_argument("--profile", action="store_true", help="instead: where the time of our updates goes (CPU)")
    given = parser.parse_args()
    given.dtype = given.dtype or ("bfloat16" if given.device.startswith("cuda") and given.config else "float32")
    return given


def main() -> None:
    """Compare losses, measure, print; or profile."""
    given = arguments()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    workspace = random_weights(given) if given.config else demo(given.model, given.device)
    print(machine(given.device), flush=True)
    recorders: dict[str, Callable[..., None]] = {"plain": plain}
    peer = load_peer(given.peer) if given.peer else None
    if transformers.utils.is_accelerate_available():
        recorders = {"Trainer": with_trainer} | recorders
        if peer:
            recorders["peer"] = partial(with_trainer, peer=peer)
        else:
            print("no --peer: OpenUnlearning's own loss is not measured")
    else:
        print("accelerate is not installed: without it there is no Trainer, and it is left out")
    for method in given.methods:
        task = Task(workspace, method, given.batch_size)
        if given.profile:
            profile(task, given.updates)
            continue
        # GradDiff has no ascent alone, and its KL is a mean over padding: another loss, so only its time is compared.
        theirs = {name: run for name, run in recorders.items() if name != "peer" or method != "ascent"}
        checked = {name: run for name, run in theirs.items() if name != "peer" or method != "kl"}
        check_losses(task, checked, 1e-3 if given.dtype == "float32" else 5e-2)
        show(task, measure(task, {"ours": ours} | theirs | {"floor": floor}, given.updates, given.rounds))
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
