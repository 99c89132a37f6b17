"""The cost of one evaluation: one pass per set, beside one pass per metric as in public code.

    ours   `ray_unlearn.unlearn.evaluate.evaluate`, as a lane runs it: P_0's hidden states are
           computed before
    usual  each metric goes through its own data loader in batches of the same size, padded to the
           full sequence length, with whole logits: nll, accuracy and KL (two models) on four sets;
           every attack (loss, zlib, Min-K% and Min-K%++ of each k) on forget and approximate;
           extraction strength and exact memorisation on forget
    shared the same, but where all k of an attack share a pass: worked out from the times of `usual`

Both are given the same model, vanilla weights with a little noise, and must find the same metrics
before anything is timed. Rounds are interleaved. Peak memory is that of a process which evaluates
once, above what it holds with both models loaded (Linux; on a GPU the device's).

    python benchmarks/evaluation.py [--rounds 5] [--model demo:shakespeare] [--device cpu]
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from update_loop import demo

from ray_unlearn.store.schema import HALVED_SETS, HALVES, MIN_K_PERCENT, SETS
from ray_unlearn.unlearn.data import EVALUATED
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

IGNORED = -100
NOISE = 0.01
Documents = list[NDArray[Any]]
"""One array per document: a value per real target."""
PerToken = Callable[["Usual", dict[str, Tensor]], Tensor]
Row = dict[str, float]


class Usual:
    """Evaluation as it is usually written.

    Each metric is a function of the model and has a data loader of its own.
    """

    def __init__(self, workspace: Workspace, reference: Any) -> None:
        self.policy = workspace.policy.model
        self.reference = reference
        self.data = workspace.data
        self.device = workspace.device
        self.batch_size = workspace.evaluation_batch_size
        self.timed: dict[str, list[float]] = {}
        """CPU and wall seconds of the passes in the last row, by kind of metric."""

    def batches(self, tokens: TokenSet) -> Iterator[dict[str, Tensor]]:
        """Padded batches in the order of the set."""
        real = tokens.document >= 0
        for start in range(0, len(tokens), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            ids, mask = (
                torch.from_numpy(tokens.input_ids[chosen]).long(),
                torch.from_numpy(real[chosen]),
            )
            batch = {
                "input_ids": ids,
                "attention_mask": mask.long(),
                "labels": ids.masked_fill(~mask, IGNORED),
            }
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    @torch.no_grad()
    def run(self, kind: str, name: str, per_token: PerToken) -> Documents:
        """Run one pass over a set for one metric; `per_token` returns [B, T - 1] of a batch."""
        began = time.process_time(), time.perf_counter()
        tokens = self.data.splits[EVALUATED[name]]
        assert tokens.position_ids is None, "packed sequences: public code has no such thing"
        values: list[NDArray[Any]] = []
        for batch in self.batches(tokens):
            found, real = per_token(self, batch), batch["labels"][:, 1:] != IGNORED
            values += [row[keep].cpu().numpy() for row, keep in zip(found, real, strict=True)]
        spent = self.timed.setdefault(kind, [0.0, 0.0])
        spent[0] += time.process_time() - began[0]
        spent[1] += time.perf_counter() - began[1]
        owner = tokens.document[:, 0]
        return [
            np.concatenate([values[i] for i in np.flatnonzero(owner == d)])
            for d in range(len(tokens.selection))
        ]

    def row(self) -> Row:
        """All metrics."""
        self.timed = {}
        row: Row = {}
        for name in SETS:
            row |= (
                self.means(name, "nll", nll)
                | self.means(name, "accuracy", correct)
                | self.means(name, "kl", kl)
            )
        row["forget_extraction_strength"] = float(
            np.mean([strength(d) for d in self.run("es", "forget", correct)])
        )
        row["forget_exact_memorisation"] = float(
            np.mean([d.mean() for d in self.run("em", "forget", correct)])
        )
        row |= self.auc("loss", nll, lambda d, size: -d.mean())
        row |= self.auc("zlib", nll, lambda d, size: -d.mean() / size)
        for k in MIN_K_PERCENT:
            row |= self.auc(f"min_k_{k}", logprob, lambda d, size, k=k: lowest(d, k))
        for k in MIN_K_PERCENT:
            row |= self.auc(f"min_k_pp_{k}", normalised, lambda d, size, k=k: lowest(d, k))
        return row

    def means(self, name: str, metric: str, per_token: PerToken) -> Row:
        """Token means over the halves of a set, or over the whole forget set."""
        documents = self.run(metric, name, per_token)
        if name == "forget":
            return {f"forget_{metric}": float(np.concatenate(documents).mean())}
        selection = self.data.splits[EVALUATED[name]].selection
        return {
            f"{name}_{metric}_{half}": float(
                np.concatenate(
                    [
                        d
                        for d, s in zip(documents, selection, strict=True)
                        if s == (half == "selection")
                    ]
                ).mean()
            )
            for half in HALVES
        }

    def auc(self, attack: str, per_token: PerToken, score: Callable[..., float]) -> Row:
        """ROC AUC of forget against either half of approximate."""
        scores = {}
        for name in ("forget", "approximate"):
            sizes = self.data.splits[EVALUATED[name]].compressed_bytes
            documents = self.run(attack, name, per_token)
            scores[name] = np.array(
                [score(d, size) for d, size in zip(documents, sizes, strict=True)]
            )
        selection = self.data.splits["approximate"].selection
        found = {}
        for half in HALVES:
            others = scores["approximate"][selection == (half == "selection")]
            truth = [1] * len(scores["forget"]) + [0] * len(others)
            found[f"mia_{attack}_auc_{half}"] = float(
                roc_auc_score(truth, np.concatenate([scores["forget"], others]))
            )
        return found


# --- per-token quantities of a batch, each with its own forward pass ------------------------------


def logits_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Whole logits, [B, T - 1, V]."""
    return (
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        .logits[:, :-1]
        .float()
    )


def nll(usual: Usual, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of each target."""
    logits, labels = logits_of(usual.policy, batch), batch["labels"][:, 1:]
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


def correct(usual: Usual, batch: dict[str, Tensor]) -> Tensor:
    """Whether each target is the argmax."""
    return logits_of(usual.policy, batch).argmax(-1) == batch["labels"][:, 1:]


def logprob(usual: Usual, batch: dict[str, Tensor]) -> Tensor:
    """log P of each target, from the whole distribution."""
    whole = F.log_softmax(logits_of(usual.policy, batch), dim=-1)
    return whole.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]


def normalised(usual: Usual, batch: dict[str, Tensor]) -> Tensor:
    """(log p - mean) / sd over the vocabulary (Min-K%++)."""
    whole = F.log_softmax(logits_of(usual.policy, batch), dim=-1)
    p = whole.exp()
    mean = (p * whole).sum(-1)
    variance = (p * whole.square()).sum(-1) - mean.square()
    return (whole.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] - mean) / variance.clamp(
        min=1e-6
    ).sqrt()


def kl(usual: Usual, batch: dict[str, Tensor]) -> Tensor:
    """KL(P_0 || P) at each position, from a pass of each model."""
    theirs = F.log_softmax(logits_of(usual.reference, batch), dim=-1)
    mine = F.log_softmax(logits_of(usual.policy, batch), dim=-1)
    return F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)


def strength(hits: NDArray[Any]) -> float:
    """Extraction strength of a document, by its shortest prefix after which all is the argmax."""
    start = next((k for k in range(len(hits)) if hits[k:].all()), len(hits))
    return 1 - start / len(hits)


def lowest(values: NDArray[Any], percent: int) -> float:
    """Mean of the lowest values, a given percentage of all."""
    return float(np.mean(sorted(values)[: max(1, len(values) * percent // 100)]))


# --- measuring ------------------------------------------------------------------------------------


def opened(source: str, device: str) -> tuple[Workspace, Any]:
    """A workspace with a slightly changed policy, and the vanilla model for the usual way."""
    workspace = demo(source, device)
    reference = deepcopy(workspace.policy.model).requires_grad_(False)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in workspace.policy.model.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    return workspace, reference


def check(ours: Row, theirs: Row) -> None:
    """Assert that all metrics of the usual way equal ours.

    An AUC may differ by a pair whose scores tie but for rounding.
    """
    worst = {name: abs(ours[name] - value) for name, value in theirs.items()}
    names = sorted(worst, key=lambda name: -worst[name])
    print(
        f"{len(theirs)} metrics agree: the largest difference is {worst[names[0]]:.1e} "
        f"({names[0]})",
        flush=True,
    )
    for name in names:
        tolerance = 5e-3 if name.startswith("mia_min_k_pp") else 1e-4
        assert worst[name] < tolerance, (name, ours[name], theirs[name])
    assert len(theirs) == 3 * (1 + 2 * len(HALVED_SETS)) + 2 + 2 * (2 + 2 * len(MIN_K_PERCENT))


def seconds(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def with_shared_k(usual: Usual, total: tuple[float, float]) -> tuple[float, float]:
    """CPU and wall seconds if all k of Min-K% and of Min-K%++ shared a pass."""
    saved = [0.0, 0.0]
    for attack in ("min_k", "min_k_pp"):
        for index in (0, 1):
            each = [usual.timed[f"{attack}_{k}"][index] for k in MIN_K_PERCENT]
            saved[index] += sum(each) - statistics.mean(each)
    return total[0] - saved[0], total[1] - saved[1]


def peak_growth_gib(which: str, source: str, device: str) -> float:
    """Peak memory that one evaluation adds, measured in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--model",
        source,
        "--device",
        device,
        "--memory-of",
        which,
    ]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def memory_of(which: str, source: str, device: str) -> float:
    """Peak memory, GiB, of one evaluation above both loaded models, in this process."""
    workspace, reference = opened(source, device)
    usual = Usual(workspace, reference)
    workspace.restart_peak_memory()
    before = workspace.peak_memory_gib()
    evaluate(workspace) if which == "ours" else usual.row()
    return workspace.peak_memory_gib() - before


def spread(values: list[float], unit: str = "") -> str:
    """Median and range in words: `2.50 (2.45-2.61)`."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="demo:shakespeare", help="`demo:<domain>`, or a folder or hub id"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=["ours", "usual"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if given.memory_of:
        print(memory_of(given.memory_of, given.model, given.device))
        return
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, python {platform.python_version()}"
    )
    workspace, reference = opened(given.model, given.device)
    usual = Usual(workspace, reference)
    check(evaluate(workspace), usual.row())
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "usual": [], "shared": []}
    for _ in range(given.rounds):
        times["ours"].append(seconds(lambda: evaluate(workspace), workspace.device))
        times["usual"].append(seconds(usual.row, workspace.device))
        times["shared"].append(with_shared_k(usual, times["usual"][-1]))
    for index, clock in enumerate(("cpu", "wall")):
        mine = [pair[index] for pair in times["ours"]]
        line = f"{clock:5}| ours {spread(mine, ' s')} "
        for name in ("usual", "shared"):
            theirs = [pair[index] for pair in times[name]]
            ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
            line += f"| {name} {spread(theirs, ' s')}, ratio {spread(ratios)} "
        print(line)
    parts = sorted(usual.timed.items(), key=lambda item: -item[1][0])
    print(
        "usual, last round, CPU s: " + ", ".join(f"{kind} {spent[0]:.2f}" for kind, spent in parts)
    )
    peaks = {
        which: peak_growth_gib(which, given.model, given.device) for which in ("ours", "usual")
    }
    ratio = peaks["usual"] / peaks["ours"] if peaks["ours"] > 0 else math.inf
    print(
        f"peak memory above the models: ours {peaks['ours']:.3f} GiB, usual {peaks['usual']:.3f} "
        f"GiB, ratio {ratio:.1f}"
    )
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
