"""The evaluation row of every study: each column with unit, direction and meaning.

Columns that only some studies have are in `study_columns`; no other module names metrics.

Sets: forget U, approximate A (same domain, never seen), retain (in-distribution, held out from
descent), general.
Halves: the documents of A, retain and general are dealt to two halves. `selection` guides the
search; `reporting` is for reports only. The forget set is what it is: whole in both.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ray_unlearn.spec.set_names import EVALUATED_SETS

SCHEMA_VERSION = 3
"""Of ledgers and tables. 2: every line of the ledger has a number, a fencing token and a checksum.
3: trial ids leave defaults out (`spec.trial_id`), tables have a column for each hyperparameter."""
HALVES = ("selection", "reporting")
Dealing = Literal["hash", "balanced"]
"""How a study's documents came to their halves. hash: by the last digit of each text's hash, in
studies of before decision 17; balanced: by length and by the vanilla model's loss."""
SETS = EVALUATED_SETS
HALVED_SETS = SETS[1:]
MIN_K_PERCENT = (20, 30, 40, 50, 60)
ATTACKS = (
    "loss",
    "zlib",
    *(f"min_k_{k}" for k in MIN_K_PERCENT),
    *(f"min_k_pp_{k}" for k in MIN_K_PERCENT),
)

Direction = Literal["minimize", "maximize", "target", "none"]
Outcome = Literal["complete", "pruned", "diverged", "out_of_memory", "failed"]
FORMER_OUTCOMES = {"infeasible": "diverged"}
"""Outcomes as ledgers and tables of before decision 17 call them, and what they are."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
RUNNING = "running"
"""Status of a trial without an outcome, in tables and reports."""
STATUSES = (*OUTCOMES, RUNNING)


@dataclass(frozen=True)
class Column:
    """One column of the result table."""

    name: str
    unit: str
    direction: Direction
    description: str
    repeatable: bool = True
    """False for wall-clock and memory: two identical runs differ there."""


def _set_columns(name: str, suffix: str) -> list[Column]:
    where = f"{name} set" + (f", {suffix[1:]} half" if suffix else "")
    direction: Direction = "minimize" if name in ("retain", "general") else "none"
    accuracy: Direction = "maximize" if name in ("retain", "general") else "none"
    return [
        Column(f"{name}_nll{suffix}", "nats/token", direction,
               f"token-mean negative log-likelihood, {where}"),
        Column(f"{name}_ppl{suffix}", "1", direction, f"perplexity exp(nll), {where}"),
        Column(f"{name}_accuracy{suffix}", "1", accuracy,
               f"share of next tokens that are the argmax, {where}"),
        Column(f"{name}_kl{suffix}", "nats/token", "minimize" if accuracy == "maximize" else "none",
               f"token-mean KL(P_0 || P_theta), {where}"),
    ]  # fmt: skip


def _columns() -> list[Column]:
    columns = [
        Column("update", "updates", "none", "optimizer updates done"),
        Column(
            "strength",
            "1",
            "none",
            "a in W_0 + a (W_t - W_0), the weights that were evaluated; 1: as trained",
        ),
        Column("epoch", "epochs", "none", "passes over the forget set"),
        Column("forget_tokens", "tokens", "none", "forget targets consumed so far"),
        Column("retain_tokens", "tokens", "none", "retain targets consumed so far"),
        Column("learning_rate_sum", "1", "none", "sum of the learning rates of all updates so far"),
        Column(
            "forget_loss",
            "nats/token",
            "none",
            "the method's forget term at the last update, unweighted",
        ),
        Column(
            "retain_loss",
            "nats/token",
            "none",
            "the method's retain term at the last update, unweighted",
        ),
        Column(
            "grad_norm",
            "1",
            "none",
            "global L2 norm of the last update's gradient, before clipping",
        ),
    ]
    columns += _set_columns("forget", "")
    columns += [
        Column("forget_extraction_strength", "1", "none",
               "mean over documents of 1 - k/L: shortest prefix k after which greedy decoding "
               "gives the rest"),
        Column("forget_exact_memorisation", "1", "none",
               "mean over documents of the share of argmax-correct tokens"),
    ]  # fmt: skip
    for half in HALVES:
        for name in HALVED_SETS:
            columns += _set_columns(name, f"_{half}")
        columns += [
            Column(f"mia_{attack}_auc_{half}", "1", "target",
                   "P(forget document looks more like a member than an approximate one), "
                   f"{attack} attack; target 0.5")
            for attack in ATTACKS
        ]  # fmt: skip
        columns += [
            Column(f"forget_gap_{half}", "nats/token", "minimize",
                   "|log ppl(U) - log ppl_0(A)|, distance to retraining"),
            Column(f"utility_loss_{half}", "nats/token", "minimize",
                   "mean over retain and general of max(0, log ppl - log ppl_0)"),
            Column(f"score_{half}", "nats/token", "minimize",
                   "weighted forget gap + weighted mean utility loss"),
            Column(f"exact_distance_{half}", "nats/token", "minimize",
                   "mean over the four sets of |log ppl - log ppl of the exactly retrained model|"),
        ]  # fmt: skip
    columns += [
        Column(
            "flops", "FLOP", "minimize", "floating-point operations of all updates so far, counted"
        ),
        Column("efficiency_ratio", "1", "maximize", "FLOPs of retraining / FLOPs so far"),
        Column(
            "wall_s",
            "s",
            "minimize",
            "seconds in updates so far, evaluation apart",
            repeatable=False,
        ),
        Column(
            "evaluation_wall_s", "s", "minimize", "seconds in evaluation so far", repeatable=False
        ),
        Column(
            "accelerator_s",
            "s",
            "minimize",
            "wall_s x shares of GPUs (0 on CPU)",
            repeatable=False,
        ),
        Column(
            "peak_memory_gib",
            "GiB",
            "minimize",
            "peak memory of the worker during the trial",
            repeatable=False,
        ),
    ]
    return columns


def _half_columns() -> list[Column]:
    columns = []
    for half in HALVES:
        for name in HALVED_SETS:
            where = f"{name} set, {half} half"
            columns += [
                Column(f"{name}_documents_{half}", "documents", "none", f"documents, {where}"),
                Column(f"{name}_tokens_{half}", "tokens", "none", f"real targets, {where}"),
            ]
        columns.append(
            Column(f"approximate_nll_se_{half}", "nats/token", "none",
                   "standard error of the target, over the approximate set's documents, "
                   f"{half} half")
        )  # fmt: skip
    return columns


AS_TRAINED = 1.0
"""Strength of the weights that an update left; of rows that do not say, too."""

COLUMNS: dict[str, Column] = {column.name: column for column in _columns()}
HALF_COLUMNS: dict[str, Column] = {column.name: column for column in _half_columns()}
"""What the vanilla baseline says of the halves beside `COLUMNS`; absent in studies of before
decision 17."""
BASELINE_COLUMNS = COLUMNS | HALF_COLUMNS
TARGET_AUC = 0.5

Row = Mapping[str, Any]
"""An evaluation row, for reading; rows of a ledger load most columns on demand."""
RowKey = tuple[int, float]
"""Update and strength: what tells a trial's rows apart, in the order of a trial."""
Metrics = dict[str, Any]
"""An evaluation row in the making."""


def strength_of(row: Row) -> float:
    """a in W_0 + a (W_t - W_0)."""
    return float(row.get("strength", AS_TRAINED))


def is_as_trained(row: Row) -> bool:
    """Whether the row is of the weights that its update left."""
    return strength_of(row) == AS_TRAINED


def at_strength(row: Row) -> str:
    """` at strength 0.71`, after a row's update; nothing for a row as trained."""
    return "" if is_as_trained(row) else f" at strength {strength_of(row):.3g}"


def whole_row(row: Row) -> Row:
    """All columns in memory: a row of a ledger reads its line once for each that is not."""
    return row if isinstance(row, dict) else dict(row.items())


def row_key(row: Row) -> RowKey:
    """Update and strength of a row."""
    return row["update"], strength_of(row)


def check_row(row: Row, extra: Collection[str] = ()) -> None:
    """Assert the contract between the loop and the ledger.

    A row has known columns only, numbers only, and an update.

    Args:
        row: the row.
        extra: columns that it may have beside `COLUMNS`.
    """
    unknown = [name for name in row if name not in COLUMNS and name not in extra]
    assert not unknown, f"columns not in the schema: {unknown}"
    assert isinstance(row.get("update"), int), "a row needs its update"
    bad = [name for name, value in row.items() if not isinstance(value, (int, float))]
    assert not bad, f"not numbers: {bad}"


def finite(row: Row) -> bool:
    """True when every value is a finite number."""
    return all(math.isfinite(value) for value in row.values())
