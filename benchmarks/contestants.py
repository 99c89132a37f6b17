"""The ways of making an update that `update_loop.py` compares, as functions of (task, clock)."""

import gc
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.checkpoint import NoCheckpointer
from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import head_of
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

NAMES = {
    "ascent": "gradient_ascent",
    "descent": "ascent_descent_in_distribution",
    "kl": "ascent_kl_in_distribution",
}
LEARNING_RATE, BETAS, CLIP, SEED = 1e-4, (0.9, 0.999), 1.0, 0
CHECKED, WARM_UP = 3, 3
Batch = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Task:
    """One method on one workspace: all that a contestant receives."""

    workspace: Workspace
    method: str
    batch_size: int

    @property
    def splits(self) -> dict[str, str]:
        """The split that each term's sequences come from."""
        return (
            {"forget": "forget"}
            if self.method == "ascent"
            else {"forget": "forget", "retain": "retain"}
        )


@dataclass(frozen=True)
class Cost:
    """The cost of one update, a mean over a round."""

    wall_ms: float
    cpu_ms: float
    peak_gib: float


class Clock:
    """A clock that is called after each update, and measures from the end of the warm-up on.

    It waits for the device only at both ends.
    """

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
        """Count an update that has ended."""
        self._done += 1
        if self._done in self._ends:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._stamps.append((time.perf_counter(), time.process_time()))

    def cost(self) -> Cost:
        """The mean cost of an update."""
        (wall, cpu), (wall_end, cpu_end) = self._stamps
        scale = 1000 / (self._ends[1] - self._ends[0])
        peak = (
            torch.cuda.max_memory_allocated(self._device) / 2**30
            if self._device.type == "cuda"
            else float("nan")
        )
        return Cost((wall_end - wall) * scale, (cpu_end - cpu) * scale, peak)


class Ticking(NoCheckpointer):
    """A checkpointer that stores nothing and calls the clock after every update."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def between_updates(self, state: Any) -> None:
        """Call the clock, except before the first update."""
        if state.meter.update:
            self._clock.tick()


def trial(task: Task, steps: int, evaluate_at: tuple[int, ...]) -> TrialConfig:
    """The configuration that all contestants follow."""
    return TrialConfig(
        method=NAMES[task.method],
        learning_rate=LEARNING_RATE,
        steps=steps,
        batch_size=task.batch_size,
        max_grad_norm=CLIP,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        evaluate_at=evaluate_at,
        seed=SEED,
    )


@contextmanager
def dropping(task: Task) -> Iterator[None]:
    """A context after which our optimizer's states are gone.

    A lane keeps them for its next trial; here they would be in the peak of whoever is measured
    next, 50 GiB at 7 B.
    """
    try:
        yield
    finally:
        task.workspace.last_optimizer = None


def ours(task: Task, clock: Clock) -> None:
    """Run our loop on a trial that is never evaluated."""
    with dropping(task):
        (end,) = unlearn(
            task.workspace, trial(task, clock.total, (clock.total + 1,)), Ticking(clock)
        )
    assert isinstance(end, Ended)
    assert end.status == "complete", end


def our_losses(task: Task) -> list[float]:
    """Total losses of the first updates, from the rows."""
    with dropping(task):
        updates = tuple(range(1, CHECKED + 1))
        rows = list(unlearn(task.workspace, trial(task, CHECKED, updates)))[:-1]
    assert all(isinstance(row, dict) for row in rows), rows
    return [row["forget_loss"] + row.get("retain_loss", 0.0) for row in rows]


class Pairs(Dataset):  # type: ignore[type-arg]
    """The sequences of update 1, 2, 3 ... in the order of our loop, without padding."""

    def __init__(self, task: Task, updates: int) -> None:
        self._items: list[Batch] = []
        splits = {term: task.workspace.data.splits[split] for term, split in task.splits.items()}
        for update in range(1, updates + 1):
            chosen = {
                term: batch(SEED, task.splits[term], update, task.batch_size, len(tokens))[0]
                for term, tokens in splits.items()
            }
            for place in range(task.batch_size):
                self._items.append(
                    {term: one(splits[term], int(chosen[term][place])) for term in splits}
                )

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
    """-NLL(forget) + NLL(retain) or KL(P_0 || P) on retain, as it is usually computed.

    It uses whole logits, and one forward pass per part and model.
    """
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
    return (
        deepcopy(task.workspace.policy.model).requires_grad_(False).eval()
        if task.method == "kl"
        else None
    )


def plain(task: Task, clock: Clock, losses: list[float] | None = None) -> None:
    """A loop written by hand."""
    workspace = task.workspace
    workspace.reset()
    reference, pairs, size = frozen(task), Pairs(task, clock.total), task.batch_size
    optimizer = torch.optim.AdamW(
        workspace.policy.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0
    )
    for update in range(clock.total):
        inputs = collate([pairs[update * size + place] for place in range(size)])
        inputs = {
            t: {k: v.to(workspace.device) for k, v in part.items()} for t, part in inputs.items()
        }
        loss = usual_loss(workspace.policy.model, reference, task.method, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(workspace.policy.model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if losses is not None:
            losses.append(loss.item())
        clock.tick()


def with_trainer(
    task: Task, clock: Clock, losses: list[float] | None = None, peer: ModuleType | None = None
) -> None:
    """`transformers.Trainer` with the usual loss, or with that of OpenUnlearning's `GradDiff`."""
    workspace, base = task.workspace, transformers.Trainer if peer is None else peer.GradDiff

    class Unlearner(base):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *given: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def compute_loss(
            self, model: Any, inputs: Batch, return_outputs: bool = False, **given: Any
        ) -> Tensor:
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
            output_dir=folder,
            max_steps=clock.total,
            per_device_train_batch_size=task.batch_size,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=CLIP,
            use_cpu=workspace.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Unlearner(
            model=workspace.policy.model,
            args=arguments,
            train_dataset=Pairs(task, clock.total),
            data_collator=collate,
            callbacks=[Ticks()],
            **more,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    workspace.policy.model.eval()


def load_peer(checkout: Path) -> ModuleType:
    """OpenUnlearning's `GradDiff` over a bare Trainer.

    Its own base classes need hydra and deepspeed, for nothing that is timed.
    """

    def load(name: str, file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    folder = next(
        (f for f in (checkout / "src" / "trainer", checkout / "trainer", checkout) if f.is_dir()),
        checkout,
    )
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


def floor(task: Task, clock: Clock) -> None:
    """The matrix multiplications and attention of an update, with nothing around them."""
    workspace = task.workspace
    workspace.reset()
    work: list[Callable[[], None]] = []
    for split in task.splits.values():
        tokens = workspace.data.splits[split]
        rows = [
            batch(SEED, split, update, task.batch_size, len(tokens))[0] for update in range(1, 21)
        ]
        lengths = (tokens.document >= 0).sum(axis=1)
        longest = round(np.mean([lengths[r].max() for r in rows]))
        targets = round(np.mean([tokens.target_mask[r].sum() for r in rows]))
        work += list(linear_layers(workspace.policy.model, task.batch_size * longest, targets))
        work += [
            attention(workspace.policy.model, task.batch_size, longest)
        ] * workspace.policy.model.config.num_hidden_layers
        if task.method == "kl" and split != "forget":
            work.append(multiply(head_of(workspace.policy.model), targets, backward=False))
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
    """y = x W^T, and the gradients dx = dy W, dW = dy^T x.

    On random numbers: a GPU multiplies constants faster, for it draws less power.
    """
    weight = layer.weight.detach()
    x = weight.new_empty(rows, layer.in_features).normal_()
    y = x.new_empty(rows, layer.out_features).normal_()

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
    q, k, v = (
        torch.randn(shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
        for _ in range(3)
    )
    gradient = torch.randn(shape, dtype=weight.dtype, device=weight.device)

    def run() -> None:
        torch.autograd.grad(
            F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), gradient
        )

    return run
