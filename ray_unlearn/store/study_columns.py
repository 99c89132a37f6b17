"""The columns of one study: those of every study, and those that its spec asks for.

A watched set `paraphrases` has `paraphrases_nll`, `paraphrases_ppl` and so on. It is whole, like
the forget set: nothing is chosen by it, so it has no halves. A task `births` of lm-eval has
`task.births.acc`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.method_registry import method_named
from ray_unlearn.spec.row_tasks import TASK_COLUMN, Better, RowTask
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import COLUMNS, HALVES, Column, Direction

_LOSS = (
    Column("nll", "nats/token", "minimize", "token-mean negative log-likelihood"),
    Column("ppl", "1", "minimize", "perplexity exp(nll)"),
    Column("accuracy", "1", "maximize", "share of next tokens that are the argmax"),
    Column("kl", "nats/token", "minimize", "token-mean KL(P_0 || P_theta)"),
)
_GENERATED = (
    Column("rouge_l", "1", "maximize", "mean ROUGE-L recall of greedy answers"),
    Column("rouge_l_f1", "1", "maximize", "mean ROUGE-L F1 of greedy answers"),
    Column("exact_match", "1", "maximize", "share of greedy answers that are the true one"),
)
_TRUTH = (
    Column("probability", "1", "maximize",
           "mean of P(answer)^(1/tokens), beside wrong answers where none is paraphrased"),
    Column("truth_ratio", "1", "maximize",
           "mean of max(0, 1 - R), R = P(wrong answers) / P(right answer), TOFU"),
)  # fmt: skip
_FORGET_TRUTH = (
    _TRUTH[0],
    Column("truth_ratio", "1", "none",
           "mean of min(R, 1/R), R = P(wrong answers) / P(right answer), TOFU; 1: as likely"),
)  # fmt: skip
_OF_A_SET = {column.name: column for column in (*_LOSS, *_GENERATED, *_TRUTH)}
_OF_A_STUDY = {
    column.name: column
    for column in (
        Column("forget_quality", "1", "maximize",
               "p-value of the two-sample Kolmogorov-Smirnov test of the forget set's R against "
               "the exactly retrained model's, TOFU"),
        Column("model_utility", "1", "maximize",
               "harmonic mean of probability, ROUGE-L recall and truth ratio of some sets, TOFU"),
        *(
            Column(f"priv_leak_{half}", "%", "none",
                   f"(A - A_r) / A_r, A = 1 - AUC of Min-K% 40, {half} half, A_r the exactly "
                   "retrained model's, MUSE; 0 is the target, below: still remembered")
            for half in HALVES
        ),
        Column("measured_share", "1", "none",
               "share of the approximate, retain and general documents that the row was measured "
               "on; below 1 their nll and ppl are estimates, and accuracy, KL and attacks those "
               "of the part"),
    )
}  # fmt: skip


MEASURED_SHARE = "measured_share"


def study_columns(spec: StudySpec) -> dict[str, Column]:
    """Every column of a study's evaluation rows, by name.

    Args:
        spec: the study, as in its file or its ledger's header.
    """
    return COLUMNS | extra_columns(spec)


def extra_columns(spec: StudySpec) -> dict[str, Column]:
    """The columns that only this study has, by name, set by set."""
    evaluation = spec.evaluation
    generated = {name for entry in evaluation.generate for name in entry.sets}
    found: list[Column] = []
    for name in evaluation.evaluated:
        watched = evaluation.sets.get(name)
        source = spec.data.splits.get("forget") if name == "forget" else watched
        kept = name in ("retain", "general") or (watched is not None and watched.to_be_kept)
        found += _named(name, _LOSS if watched is not None else (), kept)
        found += _named(name, _GENERATED if name in generated else (), kept)
        if _has_truth_ratio(source):
            found += _named(name, _FORGET_TRUTH if name == "forget" else _TRUTH, kept)
    asked = {
        "forget_quality": _has_truth_ratio(spec.data.splits.get("forget"))
        and spec.model.has_exact_retrain,
        "model_utility": bool(evaluation.model_utility),
        **{f"priv_leak_{half}": evaluation.priv_leak for half in HALVES},
        MEASURED_SHARE: evaluation.screen is not None,
    }
    found += [column for name, column in _OF_A_STUDY.items() if asked[name]]
    found += (column for task in evaluation.tasks for column in _of_task(task))
    found += _terms(spec.methods)
    return {column.name: column for column in found}


SIDES: dict[Better, Direction] = {"maximise": "maximize", "minimise": "minimize", "none": "none"}


def _of_task(task: RowTask) -> Iterator[Column]:
    for name, metric in task.columns.items():
        said = f"{metric} of the task {task.name}, lm-evaluation-harness"
        yield Column(name, "1", SIDES[task.metrics[metric]], said)


def _terms(methods: Iterable[str]) -> list[Column]:
    """A column for each term of these methods that is not in all studies."""
    names = (term.name for method in methods for term in method_named(method).terms)
    return [
        Column(
            f"{name}{TERM}",
            "nats/token",
            "none",
            f"the method's {name} term at the last update, unweighted",
        )
        for name in dict.fromkeys(names)
        if f"{name}{TERM}" not in COLUMNS
    ]


TERM = "_loss"


def extra_names(names: Iterable[str]) -> list[str]:
    """Those of these columns that some study has beside `COLUMNS`, for tables without a spec."""
    return [name for name in names if name not in COLUMNS and is_column(name)]


def is_column(name: str) -> bool:
    """Whether a study can have a column of this name."""
    own = name in _OF_A_STUDY or name.endswith(TERM) or name.startswith(TASK_COLUMN)
    return name in COLUMNS or own or set_of(name) is not None


def set_of(column: str) -> tuple[str, str] | None:
    """Set and metric of a column, as in `forget_hard_nll`; None if it is of no set."""
    found = (
        (column.removesuffix(f"_{metric}"), metric)
        for metric in sorted(_OF_A_SET, key=len, reverse=True)
        if column.endswith(f"_{metric}") and column != f"_{metric}"
    )
    return next(found, None)


def unmeasured(metric: str) -> str:
    """What a study must ask for so that its rows have a metric, for messages; empty: nothing."""
    asked = NEEDS.get(metric)
    found = set_of(metric)
    if asked is None and found is not None and found[1] in NEEDS_OF_A_SET:
        asked = NEEDS_OF_A_SET[found[1]].format(*found)
    return f": it is measured only with {asked}" if asked else ""


NEEDS = {
    "forget_quality": "`perturbed` answers of the forget split and `model.exact_retrain`",
    "model_utility": "`evaluation.model_utility`, which names sets",
    "priv_leak": "`evaluation.priv_leak: true` and `model.exact_retrain`",
}
NEEDS_OF_A_SET = {
    **dict.fromkeys((one.name for one in _GENERATED), "`{0}` in `evaluation.generate`"),
    **dict.fromkeys((one.name for one in _TRUTH), "`perturbed` answers of `{0}`"),
}
"""By metric of a set."""


def _has_truth_ratio(source: SplitSource | None) -> bool:
    return source is not None and source.perturbed is not None


def _named(name: str, metrics: Iterable[Column], kept: bool) -> Iterator[Column]:
    """The columns of a set; those that are no better high or low where it is not to be kept."""
    for column in metrics:
        direction: Direction = column.direction if kept else "none"
        description = f"{column.description}, {name} set"
        yield replace(
            column, name=f"{name}_{column.name}", direction=direction, description=description
        )
