"""What the name of a column tells: a hyperparameter, an outcome, bookkeeping, or nothing."""

import re

from ray_unlearn.spec.known_elsewhere import ALIASES
from ray_unlearn.spec.method_registry import known_hyperparameters, value_type

PREFIXES = (
    "config/", "config.", "params_", "params.", "params/", "param_", "param.",
    "hparams/", "hparams.", "hparams_", "hp_", "hp.", "hp/", "hyperparameters.",
    "hyperparameters/", "args.", "args/",
)  # fmt: skip
"""How programs mark hyperparameters. A table with such columns has no others."""
OTHERS = frozenset((
    "epochs", "num_epochs", "n_epochs", "num_train_epochs", "max_epochs", "optimizer", "optim",
    "opt", "dropout", "momentum", "nesterov", "alpha", "beta", "gamma", "delta", "tau", "sigma",
    "eps", "epsilon", "temperature", "lora_r", "lora_alpha", "lora_rank", "lora_dropout",
    "rank", "layer", "layers", "num_layers", "n_layers", "depth", "width", "hidden_size",
    "activation", "gradient_accumulation_steps", "grad_accum", "max_length", "seq_len",
    "precision", "dtype", "batch_norm", "normalization", "loss_fn", "criterion", "init",
    "coeff", "coef", "steering_coeff", "layer_id", "layer_ids", "per_device_train_batch_size",
))  # fmt: skip
"""Hyperparameters that many programs have and we do not."""
FACTORS = frozenset((
    "weight", "coef", "coeff", "coefficient", "lambda", "alpha", "beta", "gamma", "type", "fn",
    "function", "kind", "mode", "lr", "scale", "threshold",
))  # fmt: skip
"""Last words of names of hyperparameters, although a loss may come before: `retain_loss_weight`."""
SWITCHES = frozenset(("use", "with", "enable", "apply", "no", "num", "n"))
"""First words of names of hyperparameters, although a loss may follow: `use_kl`."""
METRIC_WORDS = frozenset((
    "loss", "nll", "ppl", "perplexity", "acc", "accuracy", "rouge", "bleu", "meteor",
    "bertscore", "auc", "auroc", "auprc", "f1", "recall", "error", "err", "rmse", "mse", "mae",
    "r2", "score", "metric", "metrics", "objective", "reward", "regret", "utility", "quality",
    "gap", "kl", "kld", "divergence", "privleak", "leakage", "leak", "mia", "extraction",
    "memorization", "memorisation", "truth", "es", "cer", "wer", "map", "ndcg", "mrr", "iou",
    "bpb", "cost", "em", "fq", "verbmem", "knowmem", "mmlu", "wmdp", "asr",
    "fluency", "stderr", "fitness", "return", "winrate",
))  # fmt: skip
EVALUATION_WORDS = frozenset((
    "eval", "evaluation", "val", "valid", "validation", "test", "dev",
))  # fmt: skip
"""What was evaluated, rarely the score itself."""
SUMMARIES = (["best"], ["final"], ["mean"], ["avg"], ["std"])
"""First words of names of results: `best_epoch`."""
EMBEDDED = re.compile(r"(loss|ppl|perplexity|accuracy|auc|auroc|nll)$|^(rouge|bleu|auc|eval|acc\d)")
HIGHER = re.compile(
    r"acc|auc|auroc|auprc|f1|rouge|bleu|meteor|bertscore|recall|reward|utility|quality|r2|map|ndcg|"
    r"mrr|iou|fitness|return|winrate|mmlu"
)
LOWER = re.compile(
    r"loss|nll|ppl|perplexity|err|error|rmse|mse|mae|gap|kl|kld|divergence|regret|cost|leak.*|"
    r"privleak|cer|wer|bpb|distance|objective|mia"
)
TIMES = frozenset((
    "time", "times", "duration", "runtime", "elapsed", "wall", "walltime", "wallclock",
    "second", "seconds", "secs", "timestamp", "date", "datetime", "created", "updated", "started",
    "finished", "start", "end", "sec", "hours", "minutes", "day",
))  # fmt: skip
MACHINES = frozenset((
    "pid", "host", "hostname", "node", "ip", "user", "username", "gpu", "device", "cuda",
    "machine", "worker", "memory", "mem", "flops", "flos", "throughput",
))  # fmt: skip
PLACES = frozenset((
    "path", "dir", "directory", "logdir", "folder", "file", "filename", "url", "uri",
    "checkpoint", "ckpt", "artifact", "git", "commit", "hash", "sha", "uuid", "id", "output",
))  # fmt: skip
REMARKS = frozenset((
    "note", "notes", "comment", "comments", "description", "remark", "remarks", "tags", "tag",
    "message", "reason",
))  # fmt: skip
COUNTERS = frozenset((
    "iteration", "iterations", "epoch", "index", "idx", "line", "global_step", "_step",
    "training_iteration", "count", "counter", "done",
))  # fmt: skip
ATTRIBUTES = ("user_attrs", "system_attrs", "datetime_", "tags.", "metrics.", "metric:", "summary.")


def words(name: str) -> list[str]:
    """The words of a name, lower case: `valLoss`, `val_loss` and `val/loss` have two.

    Capitals do not part what is one metric: `KnowMem`.
    """
    found: list[str] = []
    for part in filter(None, re.split(r"[^A-Za-z0-9]+", name)):
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", part).lower().split()
        found += [part.lower()] if part.lower() in METRIC_WORDS else spaced
    return found


def without_prefix(name: str) -> str | None:
    """The name after a prefix that marks hyperparameters; None without one."""
    for prefix in PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return name[len(prefix) :]
    return None


def our_name(name: str) -> str:
    """Our name of a hyperparameter, or theirs where we have none: `lr` is `learning_rate`."""
    plain = re.sub(r"[- ]", "_", name.lower())
    if plain in known_hyperparameters():
        return plain
    return next((ours for ours, theirs in ALIASES.items() if plain in theirs), name)


def is_hyperparameter(name: str) -> bool:
    """Whether the name is that of a hyperparameter, ours or a usual one."""
    last = re.split(r"[./]", re.sub(r"[- ]", "_", name.lower()))[-1]
    return our_name(last) in known_hyperparameters() or last in OTHERS or words(name)[-1:] == ["lr"]


def is_metric(name: str) -> bool:
    """Whether the name is that of something measured."""
    found = words(name)
    if found == ["value"]:
        return True
    if "per" in found and found[-1] in TIMES:
        return False
    if not found or (found[-1] in FACTORS and len(found) > 1) or found[0] in SWITCHES:
        return False
    return any(word in METRIC_WORDS or EMBEDDED.search(word) for word in found)


def why_outcome(name: str) -> str | None:
    """Why the name is that of a result; None where it is not."""
    if is_metric(name):
        return "its name is that of a metric"
    found = words(name)
    if found and found[-1] in FACTORS and len(found) > 1:
        return None
    if name.lower().endswith("grad_norm"):
        return "it is measured while training"
    if any(word in EVALUATION_WORDS for word in found) or found[:1] in SUMMARIES:
        return "its name is that of an evaluation"
    return None


def why_bookkeeping(name: str) -> str | None:
    """Why the name says nothing about a configuration; None where it may."""
    plain, found = name.lower(), set(words(name))
    if not found or plain.startswith("unnamed:"):
        return "a column without a name"
    if plain.startswith(ATTRIBUTES):
        return "an attribute, not a hyperparameter"
    for known, what in (
        (TIMES, "a time or date"),
        (MACHINES, "where it ran, or what it took"),
        (PLACES, "a name or place of files"),
        (REMARKS, "free text"),
    ):
        if found & known:
            return f"its name is that of {what}"
    counts = plain in COUNTERS or plain.startswith("job_") or found & {"iteration", "iterations"}
    return "its name is that of a counter" if counts else None


def higher_is_better(name: str) -> tuple[bool, str]:
    """Whether higher values of a score are better, and why that is believed.

    Metrics of the forget set are ambiguous: forgetting lowers accuracy, and raises perplexity.
    They are minimised, and the reason says that this is an assumption.
    """
    found = words(name)
    if "forget" in found and "quality" not in found:
        return False, "assumed: of a metric on forget data the name does not tell"
    if any(LOWER.fullmatch(word) for word in found):
        return False, "its name tells"
    if any(HIGHER.match(word) for word in found):
        return True, "its name tells"
    if any(LOWER.search(word) for word in found):
        return False, "its name tells"
    return False, "assumed: its name does not tell"


def is_factor(name: str) -> bool:
    """Whether the values are numbers for sure: a learning rate, a weight."""
    ours = our_name(without_prefix(name) or name)
    return ours in known_hyperparameters() and value_type(ours) is not str
