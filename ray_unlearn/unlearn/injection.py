"""Memory injected into a model: trained further on given sequences, saved, and measured.

Shapes: N sequences of T tokens, n targets, H hidden size, D documents.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.logprobs import target_logprobs
from ray_unlearn.unlearn.metrics import Floats, mean_by_document, signed_auc
from ray_unlearn.unlearn.model import head_of, hidden_states, load_model, load_tokenizer
from ray_unlearn.unlearn.optimizer import Rounded
from ray_unlearn.unlearn.token_set import TokenSet

TOLD = 20
"""Lines of progress of a training."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Learning:
    """How memory is injected: AdamW without weight decay, gradient norm clipped to 1."""

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Sequences:
    """Sequences of several sets: input ids [N, T] and which places are targets [N, T - 1]."""

    input_ids: NDArray[np.int32]
    targets: NDArray[np.bool_]

    @classmethod
    def of(cls, sets: Sequence[TokenSet]) -> "Sequences":
        """All sequences of the sets, in their order."""
        return cls(
            np.concatenate([tokens.input_ids for tokens in sets]),
            np.concatenate([tokens.target_mask for tokens in sets]),
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    def states(self, model: Any, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Final hidden states [n, H] and the tokens [n] that they predict, in sequence order.

        Columns after the last target are not computed.
        """
        mask = self.targets[rows]
        length = int(np.flatnonzero(mask.any(axis=0))[-1]) + 2
        ids = torch.from_numpy(self.input_ids[rows, :length]).long().to(model.device)
        at = torch.from_numpy(mask[:, : length - 1]).to(model.device)
        return hidden_states(model, ids)[:, :-1][at], ids[:, 1:][at]


def device_here() -> str:
    """The device to train on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def save_model(model: Any, source: ModelSpec, folder: Path) -> None:
    """Write a plain Hugging Face folder: weights and the tokenizer of `source`."""
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)


def updates_of(learning: Learning, sequences: int) -> int:
    """Updates in which every sequence is used once per epoch."""
    return learning.epochs * math.ceil(sequences / learning.batch_size)


def learn(
    spec: ModelSpec, sets: Sequence[TokenSet], learning: Learning, folder: Path, say: Say
) -> None:
    """Train a model further, every sequence once per epoch, and save it.

    Writes training.json with the cost beside the weights.

    Args:
        spec: the model to begin with.
        sets: what it is trained on; the loss is the mean over a batch's targets.
        learning: epochs, learning rate, batch size, seed.
        folder: where the model goes.
        say: called with each line of progress.
    """
    model = load_model(spec).to(device_here())
    sequences = Sequences.of(sets)
    optimizer = _adamw(model, learning)
    started = time.monotonic()
    total = updates_of(learning, len(sequences))
    for update, rows in enumerate(_batches(len(sequences), learning), start=1):
        hidden, targets = sequences.states(model, rows)
        loss = -logprob_sum(hidden, head_of(model), targets) / len(targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if update % math.ceil(total / TOLD) == 0 or update == total:
            say(f"update {update} of {total}, loss {loss.item():.2f} nats per token")
    save_model(model, spec, folder)
    cost = {"updates": total, "wall_s": round(time.monotonic() - started, 1)}
    (folder / "training.json").write_text(json.dumps(asdict(learning) | cost) + "\n")


def _adamw(model: Any, learning: Learning) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if all(p.dtype == torch.float32 for p in parameters):
        return torch.optim.AdamW(parameters, lr=learning.learning_rate, weight_decay=0.0)
    return Rounded(parameters, learning.learning_rate, rounding="stochastic", seed=learning.seed)


def _batches(sequences: int, learning: Learning) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(learning.seed)
    cuts = range(learning.batch_size, sequences, learning.batch_size)
    for _ in range(learning.epochs):
        yield from np.split(rng.permutation(sequences), cuts)


@torch.no_grad()
def token_logprobs(model: Any, tokens: TokenSet, batch_size: int) -> Floats:
    """Log-probability of every target of a set [n], in sequence order."""
    sequences = Sequences.of([tokens])
    parts = []
    for start in range(0, len(sequences), batch_size):
        rows = np.arange(start, min(start + batch_size, len(sequences)))
        hidden, targets = sequences.states(model, rows)
        parts.append(target_logprobs(hidden, head_of(model), targets).double().cpu())
    return torch.cat(parts).numpy()


def document_difficulty(
    spec: ModelSpec, tokens: TokenSet, batch_size: int
) -> tuple[Floats, Floats]:
    """Real targets and summed negative log-likelihood in nats of each document, [D]."""
    logprobs = token_logprobs(load_model(spec).to(device_here()), tokens, batch_size)
    documents = len(tokens.selection)
    counts = np.bincount(tokens.target_document, minlength=documents).astype(np.float64)
    nll = -np.bincount(tokens.target_document, logprobs, documents).astype(np.float64)
    return counts, nll


def baseline_metrics(
    spec: ModelSpec, data: StudyData, batch_size: int, source: str | None = None
) -> dict[str, float]:
    """Perplexity of every split, and the AUC of the loss attack, forget against approximate.

    Args:
        spec: the model, or how to load `source`.
        data: the splits.
        batch_size: sequences per forward pass.
        source: another model than `spec.source`.

    Returns:
        `<split>_ppl`, exp of the mean loss over tokens, and `mia_loss_auc`.
    """
    model = load_model(spec, source).to(device_here())
    row, scores = {}, {}
    for name, tokens in data.splits.items():
        logprobs = token_logprobs(model, tokens, batch_size)
        row[f"{name}_ppl"] = float(np.exp(-logprobs.mean()))
        scores[name] = mean_by_document(logprobs, tokens.target_document, len(tokens.selection))
    return row | {"mia_loss_auc": signed_auc(scores["forget"], scores["approximate"])}
