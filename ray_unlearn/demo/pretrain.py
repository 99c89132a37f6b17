"""Train one of the two demo models.

`build` runs this file as a process of its own, with one thread.

    python -m ray_unlearn.demo.pretrain DOMAIN {vanilla,retrained} RECIPE_JSON FOLDER

It writes FOLDER/<role>/ (a Hugging Face folder), FOLDER/<role>.json (metrics and cost) and, while
it runs, FOLDER/<role>.progress (a fraction).

A document is tokenised without special tokens and cut into chunks of `context` tokens; a chunk
predicts its tokens from the second on. Padding is on the right and never counts. Batches hold
chunks of similar length, so there is little padding.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ray_unlearn.demo.recipe import Recipe
from ray_unlearn.demo.text import documents
from ray_unlearn.demo.tokenizer import END, END_ID, PAD, PAD_ID, train_tokenizer
from ray_unlearn.spec.document import Document

Role = Literal["vanilla", "retrained"]
Splits = dict[str, list[Document]]

UNSEEN: dict[str, tuple[str, ...]] = {
    "vanilla": ("approximate",),
    "retrained": ("approximate", "forget"),
}
IGNORED = -100  # label of a position that has no target
ROUND_TO = 16  # batch lengths, in tokens: few shapes, so that each can have its FLOPs counted


def training_texts(splits: Splits, role: str) -> list[str]:
    """Every text the model is trained on, in a fixed order."""
    return [
        document.text
        for split, group in splits.items()
        if split not in UNSEEN[role]
        for document in group
    ]


def chunks(ids: list[int], context: int) -> list[list[int]]:
    """Pieces of at most `context` tokens.

    A last piece of one token has nothing to predict and is dropped.
    """
    pieces = [ids[start : start + context] for start in range(0, len(ids), context)]
    return [piece for piece in pieces if len(piece) > 1]


def batch_tensors(batch: list[list[int]], context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and next-token labels of a batch.

    Both have shape (chunks, longest rounded up to ROUND_TO). Padding has id PAD_ID and label
    IGNORED.
    """
    length = min(context, math.ceil(max(map(len, batch)) / ROUND_TO) * ROUND_TO)
    ids = torch.full((len(batch), length), PAD_ID)
    labels = torch.full((len(batch), length), IGNORED)
    for row, chunk in enumerate(batch):
        ids[row, : len(chunk)] = torch.tensor(chunk)
        labels[row, : len(chunk) - 1] = torch.tensor(chunk[1:])
    return ids, labels


def epoch_batches(pieces: list[list[int]], recipe: Recipe, epoch: int) -> list[list[list[int]]]:
    """The batches of an epoch, each chunk once, fixed by (seed, epoch).

    Chunks are shuffled and grouped by rounded length, and then the batches are shuffled.
    """
    rng = np.random.default_rng((recipe.seed, epoch))
    order = sorted(
        rng.permutation(len(pieces)).tolist(), key=lambda i: math.ceil(len(pieces[i]) / ROUND_TO)
    )
    batches = [
        [pieces[i] for i in order[start : start + recipe.batch]]
        for start in range(0, len(order), recipe.batch)
    ]
    return [batches[i] for i in rng.permutation(len(batches)).tolist()]


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then cosine to zero."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return (
        recipe.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))
    )


def token_losses(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log P of each label, (chunks, length) in nats; 0 where there is no target.

    Attention is causal and padding is on the right, so padding needs no mask.
    """
    logits_btv = model(input_ids=ids).logits
    return F.cross_entropy(
        logits_btv.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)


def step_flops(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> int:
    """Matrix-multiplication FLOPs of one forward and backward pass, counted by torch.

    The optimizer is left out: it is well under 1 %. The plain attention kernel is used, because
    torch counts nothing for the fused one on a CPU.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        token_losses(model, ids, labels).sum().backward()
    model.zero_grad()
    return int(counter.get_total_flops())


def train(
    pieces: list[list[int]], recipe: Recipe, progress: Callable[[float], None]
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """A model trained from scratch, and its cost.

    The weights are bit-identical for the same input on one machine with one thread.
    """
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            initializer_range=recipe.initial_scale,
            tie_word_embeddings=True,
            bos_token_id=END_ID,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay
    )
    endless = (
        batch for epoch in itertools.count() for batch in epoch_batches(pieces, recipe, epoch)
    )
    flops_of_shape: dict[tuple[int, ...], int] = {}
    flops = tokens = 0
    for step, batch in enumerate(itertools.islice(endless, recipe.steps)):
        ids, labels = batch_tensors(batch, recipe.context)
        if tuple(ids.shape) not in flops_of_shape:
            flops_of_shape[tuple(ids.shape)] = step_flops(model, ids, labels)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = token_losses(model, ids, labels).sum() / (labels != IGNORED).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        flops += flops_of_shape[tuple(ids.shape)]
        tokens += sum(map(len, batch))
        progress((step + 1) / recipe.steps)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return model.eval(), {
        "parameters": parameters,
        "steps": recipe.steps,
        "tokens": tokens,
        "flops": flops,
    }


@torch.no_grad()
def document_losses(
    model: LlamaForCausalLM, encoded: list[list[int]], context: int
) -> Iterator[tuple[float, int]]:
    """For each document, the summed -log P of its targets in nats, and their number."""
    for ids in encoded:
        inputs, labels = batch_tensors(chunks(ids, context), context)
        yield (
            float(token_losses(model, inputs, labels).double().sum()),
            int((labels != IGNORED).sum()),
        )


def membership_auc(forget: list[float], approximate: list[float]) -> float:
    """P(a forget document has the lower loss than an approximate one), with ties counted half.

    0.5 means that losses do not reveal membership.
    """
    difference = np.subtract.outer(np.asarray(approximate), np.asarray(forget))
    return float(np.mean(np.sign(difference) * 0.5 + 0.5))


def split_metrics(
    model: LlamaForCausalLM, encoded: dict[str, list[list[int]]], context: int
) -> dict[str, float]:
    """Perplexity of every split, and the membership AUC.

    `<split>_ppl` is exp of the mean loss over tokens; `mia_auc` compares the documents' mean losses
    over tokens.
    """
    losses = {
        split: list(document_losses(model, group, context)) for split, group in encoded.items()
    }
    metrics = {
        f"{split}_ppl": math.exp(sum(nats for nats, _ in pairs) / sum(count for _, count in pairs))
        for split, pairs in losses.items()
    }
    means = {split: [nats / count for nats, count in pairs] for split, pairs in losses.items()}
    return metrics | {"mia_auc": membership_auc(means["forget"], means["approximate"])}


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write the files that AutoTokenizer reads."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def pretrain(splits: Splits, role: Role, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train, save and evaluate one model; see the module for what is written."""
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = train_tokenizer(training_texts(splits, "retrained"), recipe.vocabulary)
    encoded = {
        split: [tokenizer.encode(document.text).ids for document in group]
        for split, group in splits.items()
    }
    seen = [ids for split, group in encoded.items() if split not in UNSEEN[role] for ids in group]
    pieces = [piece for ids in seen for piece in chunks(ids, recipe.context)]
    model, cost = train(pieces, recipe, ProgressFile(folder / f"{role}.progress"))
    model.save_pretrained(folder / role)
    save_tokenizer(tokenizer, folder / role, recipe.context)
    report = {
        **cost,
        "metrics": split_metrics(model, encoded, recipe.context),
        "wall_s": time.monotonic() - started,
        "cpu_s": time.process_time(),
    }
    (folder / f"{role}.json").write_text(json.dumps(report, indent=2))
    return report


class ProgressFile:
    """A file with the fraction done, written at most four times a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.next_s = 0.0

    def __call__(self, fraction: float) -> None:
        if time.monotonic() >= self.next_s:
            self.path.write_text(f"{fraction:.4f}")
            self.next_s = time.monotonic() + 0.25


def pretrain_role(domain: str, role: str, recipe: str, folder: str) -> None:
    assert role in UNSEEN, role
    made = Recipe(**json.loads(recipe))
    pretrain(documents(domain), role, made, Path(folder))  # type: ignore[arg-type]


if __name__ == "__main__":
    pretrain_role(*sys.argv[1:])
