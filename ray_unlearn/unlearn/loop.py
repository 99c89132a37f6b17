"""The unlearning loop: a generator of evaluation rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Outcome, Row
from ray_unlearn.store.schema import finite as finite_row
from ray_unlearn.unlearn.batch import Batch, on_device, target_documents
from ray_unlearn.unlearn.calibration import Calibration, calibrated_row
from ray_unlearn.unlearn.checkpoint import Checkpointer, NoCheckpointer, TrialState
from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.head import distillation_sum, function_by_head, kl_sum, logprob_sum
from ray_unlearn.unlearn.liger import liger_kl_sum, liger_logprob_sum
from ray_unlearn.unlearn.logprobs import distillation, kl_from_reference, target_logprobs
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.methods import Term, terms
from ray_unlearn.unlearn.methods.labels import random_labels
from ray_unlearn.unlearn.methods.losses import BY_TARGET, PENALTY, Given
from ray_unlearn.unlearn.optimizer import make_optimizer, reuse_memory
from ray_unlearn.unlearn.preference_terms import as_read, part_of_preference, passed_tokens
from ray_unlearn.unlearn.screening import Screening
from ray_unlearn.unlearn.sharded_model import whole
from ray_unlearn.unlearn.state_terms import OF_STATES, part_of_state_loss
from ray_unlearn.unlearn.trained_layers import trained_parameters, training_only
from ray_unlearn.unlearn.workspace import Workspace

NO_CHECKPOINTS = NoCheckpointer()
LOGPROB = {"fused": logprob_sum, "plain": target_logprobs, "liger": liger_logprob_sum}
KL = {"fused": kl_sum, "plain": kl_from_reference, "liger": liger_kl_sum}
DISTILLATION = {"fused": distillation_sum, "plain": distillation, "liger": distillation_sum}
"""By `operations.head`."""
WORDS = {"grad_norm": "gradient norm"}


@dataclass(frozen=True)
class Ended:
    """How a trial ended; `reason` is for people."""

    status: Outcome
    reason: str = ""


def unlearn(
    workspace: Workspace,
    config: TrialConfig,
    checkpointer: Checkpointer = NO_CHECKPOINTS,
    calibration: Calibration | None = None,
    screening: Screening | None = None,
) -> Iterator[Row | Ended]:
    """Run one trial from the vanilla weights, yielding its evaluation rows and then `Ended`.

    There is a row after each update in `config.evaluate_at`; with `calibration` some of them are
    followed by a second row, at another strength, and the trajectory is the same bit for bit. With
    `screening` rows that cannot be the best are measured on a part of the documents.
    Collective over the lane's ranks:
    every rank yields the same rows. The generator may be dropped after any row; the next trial
    begins with a reset. With one worker on a CPU the trajectory is a
    function of `config` alone, bit for bit, also when `checkpointer` lets it continue from a
    checkpoint; rows that the checkpointer knows are then left out. A non-finite loss, gradient or
    metric ends the trial as diverged *before* a step is made with it.

    Raises:
        torch.OutOfMemoryError: as it comes from the device; the lane turns it into an outcome.
    """
    workspace.reset(config.seed)
    torch.manual_seed(config.seed)
    trained = trained_parameters(workspace, config)
    optimizer = make_optimizer(trained, config, workspace.rounding)
    previous, workspace.last_optimizer = workspace.last_optimizer, None
    reuse_memory(optimizer, previous)
    meter = Meter(workspace, config)
    state = TrialState(workspace, config, optimizer, meter, calibration)
    checkpointer.restore(state)
    workspace.last_optimizer = optimizer
    workspace.comm.check_same(meter.update, "update of the restored checkpoint")
    while True:
        if meter.update in config.evaluate_at:
            last = meter.update == config.steps
            if meter.update not in checkpointer.known:
                row = meter.row(evaluate(workspace, last=last, screening=screening))
                if not finite_row(row):
                    first = next(name for name, value in row.items() if not math.isfinite(value))
                    yield Ended("diverged", f"{first} is not finite at update {meter.update}")
                    return
                if calibration is not None:
                    calibration.take(row)
                yield row
            if calibration is not None and calibration.wants(meter.update):
                yield from calibrated_row(
                    workspace, meter, calibration, last=last, screening=screening
                )
        checkpointer.between_updates(state)
        if meter.update == config.steps:
            yield Ended("complete")
            return
        update = meter.start_update()
        with training_only(workspace, trained):
            losses: dict[str, Tensor] = {
                term.name: backward(workspace, config, term, update, meter)
                for term in terms(config)
            }
        grad_norm = reduce_and_clip(workspace, config, trained, losses)
        found = numbers_of(losses, grad_norm)
        if reason := not_finite(update, found):
            yield Ended("diverged", reason)
            return
        learning_rate = learning_rate_at(config, update)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        make_step(workspace, optimizer)
        meter.end_update(learning_rate, found)


def learning_rate_at(config: TrialConfig, update: int) -> float:
    """Learning rate of `update`, which counts from 1.

    It is a linear warm-up to the peak, then constant, linear to zero or cosine to zero. As in the
    usual trainers the schedule counts finished updates, so the last one is not yet at zero.
    """
    warmup, done = config.warmup_updates, update - 1
    if update <= warmup:
        return config.learning_rate * update / warmup
    if config.schedule == "constant":
        return config.learning_rate
    share = (done - warmup) / max(1, config.steps - warmup)
    factor = 1 - share if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * factor


def backward(
    workspace: Workspace, config: TrialConfig, term: Term, update: int, meter: Meter
) -> Tensor:
    """Add the gradient of weight * loss of one term, and return the unweighted loss.

    Both are over this worker's part of the batch.
    The loss is a sum over micro-batches divided by the *global* number of targets or documents, so
    it is the mean over the global batch whatever the micro-batch size and the number of workers.
    """
    tokens = workspace.data.splits[term.split]
    indices, epochs = batch(config.seed, term.split, update, term.batch_size, len(tokens))
    consumed = int(tokens.target_mask[indices].sum())
    term, indices, epochs = as_read(workspace, config, term, indices, epochs)
    targets = int(workspace.data.splits[term.split].target_mask[indices].sum())
    documents = int(numbered_documents(workspace, term, indices).max(initial=-1)) + 1
    meter.count(term, consumed, *passed_tokens(workspace, config, term, indices, epochs))
    own, own_epochs = workspace.comm.shard(indices), workspace.comm.shard(epochs)
    size = workspace.micro_batch_size or max(1, len(own))
    total = torch.zeros((), device=workspace.device)
    use = partial(part_of_loss, workspace, config, term, targets=targets, documents=documents)
    for start in range(0, len(own), size):
        chosen = slice(start, start + size)
        loss = use(own[chosen], own_epochs[chosen])
        (term.weight * loss).backward()
        total += loss.detach()
    size = workspace.micro_batch_size or len(indices)
    most = -(-len(indices) // workspace.comm.world_size)
    for _ in workspace.idle_calls(-(-len(own) // size), -(-most // size)):
        use(indices[:1], epochs[:1], idle=True).backward()
    return total


def part_of_loss(
    workspace: Workspace,
    config: TrialConfig,
    term: Term,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    *,
    targets: int,
    documents: int,
    idle: bool = False,
) -> Tensor:
    """What these sequences add to the term's loss in a batch of so many targets and documents.

    A scalar with gradient. An idle call has no targets at all; its gradients are zero.
    """
    inputs = workspace.batch(term.split, indices)
    if idle:
        inputs = inputs.without_targets()
    n, needs = len(inputs.rows), term.loss.needs
    if needs in OF_STATES:
        return part_of_state_loss(workspace, config, term, inputs, targets)
    numbers = numbered_documents(workspace, term, indices)
    (document,) = on_device([numbers[:n]], workspace.device)

    if needs == "preference":
        empty = torch.zeros(0, device=workspace.device)
        known = Given(empty, targets, documents, document)
        return part_of_preference(workspace, config, term, indices, epochs, known, idle=idle)

    def loss(values: Tensor, reference: Tensor | None = None) -> Tensor:
        given = Given(values, targets, documents, document, reference)
        return term.loss.function(given, config)

    head, scored = workspace.head, workspace.policy.scored
    compared: dict[str, Any] = {}
    if needs in ("kl_sum", "distillation_sum"):
        compared = {
            "reference_hidden": workspace.reference.hidden(term.split, indices)[:n],
            "reference_head": workspace.reference.head,
        }
    if needs == "kl_sum":
        return loss(scored(inputs, partial(KL[head], **compared)))
    labels = labels_of(workspace, config, term, indices, epochs, inputs)
    if needs == "distillation_sum":
        compared["penalty"] = getattr(config, PENALTY)
        return loss(scored(inputs, partial(DISTILLATION[head], targets=labels, **compared)))
    if needs == "logprob_sum":
        return loss(scored(inputs, partial(LOGPROB[head], targets=labels)))
    reference = None
    if needs == "reference_logprobs":
        reference = workspace.reference.logprobs(term.split, indices, labels)
    found: Tensor = scored(
        inputs, function_by_head(head, labels, partial(loss, reference=reference))
    )
    return found


def numbered_documents(
    workspace: Workspace, term: Term, indices: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Document of each target of these sequences, 0 ... D-1, [n]; empty where no loss asks."""
    if term.loss.needs not in BY_TARGET:
        return np.empty(0, dtype=np.intp)
    found = target_documents(workspace.data.splits[term.split], indices)
    return np.unique(found, return_inverse=True)[1]


def labels_of(
    workspace: Workspace,
    config: TrialConfig,
    term: Term,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    inputs: Batch,
) -> Tensor:
    """What the term fits at each target of these sequences, [n]."""
    if term.labels == "true":
        return inputs.targets
    tokens = workspace.data.splits[term.split]
    if term.labels == "adversarial":
        chosen = workspace.adversarial_labels[indices]
    else:
        true, allowed = tokens.input_ids[:, 1:], workspace.data.allowed_labels
        drawn = [
            random_labels(true[index], allowed, config.seed, int(index), int(epoch))
            for index, epoch in zip(indices, epochs, strict=True)
        ]
        chosen = np.stack(drawn)
    (labels,) = on_device([chosen[tokens.target_mask[indices]]], workspace.device)
    return labels[: len(inputs.rows)]


def reduce_and_clip(
    workspace: Workspace,
    config: TrialConfig,
    trained: list[torch.nn.Parameter],
    losses: dict[str, Tensor],
) -> Tensor:
    """Sum gradients and losses over the workers, and clip the gradient's global L2 norm.

    Sharded gradients are summed already.

    Returns:
        The norm before clipping.
    """
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    workspace.comm.all_reduce_sum([*([] if workspace.sharded else gradients), *losses.values()])
    norm = total_norm(gradients)
    torch.nn.utils.clip_grads_with_norm_(trained, config.max_grad_norm, norm)
    return norm


def total_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm of all gradients, in float32: in that of bfloat16 gradients it would have two digits.

    A collective if they are sharded.
    """
    if all(gradient.dtype == torch.float32 for gradient in gradients):
        return whole(torch.nn.utils.get_total_norm(gradients))
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in gradients]
    return whole(torch.linalg.vector_norm(torch.stack(norms)))


def make_step(workspace: Workspace, optimizer: torch.optim.Optimizer) -> None:
    """Make a step, and drop the gradients.

    Meanwhile the next trial cannot have the optimizer's states: if memory runs out between two of
    them, half of them would be there.
    """
    workspace.last_optimizer = None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    workspace.last_optimizer = optimizer


def numbers_of(losses: dict[str, Tensor], grad_norm: Tensor) -> dict[str, float]:
    """Losses and gradient norm, in one read: of an update, this is what a GPU is waited for."""
    names = [*(f"{name}_loss" for name in losses), "grad_norm"]
    values = torch.stack([*losses.values(), grad_norm.float()]).cpu()
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def not_finite(update: int, found: dict[str, float]) -> str:
    """Why this update must not be made, or nothing."""
    return next(
        (
            f"{WORDS.get(name, name.replace('_', ' '))} is {value} at update {update}"
            for name, value in found.items()
            if not math.isfinite(value)
        ),
        "",
    )
