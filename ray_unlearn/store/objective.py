"""What makes the score of a row, and which rows are feasible: one rule for every reader of rows.

The score is the weighted sum, or one metric of the row: itself (`minimise`), its negative
(`maximise`), or its distance from a goal (`approach`). Lower is better in each case. A row is
feasible when its metrics are within the bounds of `subject_to`. Metrics are named without their
half: the selection half says what a search finds feasible, the reporting half whether that held.

Violations of several constraints are added as parts of their bounds (`Constraint.margin`), so that
a KL of 0.02 above 0.01 counts as much as a perplexity of 24 above 12.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.known_elsewhere import METRICS, elsewhere
from ray_unlearn.spec.objective_spec import Limits, ObjectiveSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import COLUMNS, HALVES, Column, Row
from ray_unlearn.store.study_columns import set_of, study_columns, unmeasured

SELECTION = HALVES[0]
SCORE_NAME = "score"
"""Name of what an objective makes; it can be neither minimised nor bounded."""


@dataclass(frozen=True)
class Constraint:
    """One bound of one metric."""

    metric: str
    """Without its half."""
    bound: float
    is_most: bool
    """Whether the bound is the most, else the least, that the metric may be."""

    @property
    def key(self) -> str:
        """`general_kl <= 0.01`."""
        return f"{self.metric} {'<=' if self.is_most else '>='} {self.bound:g}"

    def excess(self, row: Row, half: str = SELECTION) -> float:
        """How far the metric is outside, in its own unit; below 0 inside.

        Infinity where it was not measured or is not a number: nobody knows that the bound is kept.
        """
        value = _value(row, self.metric, half)
        if math.isnan(value):
            return math.inf
        return value - self.bound if self.is_most else self.bound - value

    def margin(self, row: Row, half: str = SELECTION) -> float:
        """`excess` as a part of the bound, or as it is where the bound is 0."""
        return self.excess(row, half) / (abs(self.bound) or 1.0)

    def broken(self, row: Row, half: str = SELECTION) -> str:
        """`general_kl 0.031 is above 0.01 by 0.021`."""
        value, way = _value(row, self.metric, half), "above" if self.is_most else "below"
        if math.isnan(value):
            return f"{self.metric} was not measured"
        over = self.excess(row, half)
        return f"{self.metric} {value:.4g} is {way} {self.bound:g} by {over:.3g}"


@dataclass(frozen=True)
class Objective:
    """Score and constraints of a study."""

    aim: tuple[str, str, float] | None = None
    """`minimise`, `maximise` or `approach`, the metric, the goal; None: the weighted sum."""
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(cls, spec: StudySpec) -> "Objective":
        """The objective of a study.

        Raises:
            UserError: a metric that its rows do not have, or that has no better side where one is
                needed.
        """
        objective = objective_of(spec.objective, metric_columns(spec), spec.name)
        _check_measured(objective, spec)
        return objective

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those it reads, each once; none for the weighted sum without constraints."""
        aimed = () if self.aim is None else (self.aim[1],)
        return tuple(dict.fromkeys((*aimed, *(one.metric for one in self.constraints))))

    def absent(self, row: Row) -> list[str]:
        """Metrics that it reads and the row does not have at all."""
        return [m for m in self.metrics if m not in row and f"{m}_{SELECTION}" not in row]

    def score(self, row: Row, half: str) -> float | None:
        """The score of a row, lower is better; None where it is the weighted sum."""
        if self.aim is None:
            return None
        way, metric, goal = self.aim
        value = _value(row, metric, half)
        if way == "approach":
            return abs(value - goal)
        return value if way == "minimise" else -value

    def violation(self, row: Row, half: str = SELECTION) -> float:
        """Sum of the positive margins; 0 where the row is feasible."""
        return sum((max(0.0, one.margin(row, half)) for one in self.constraints), 0.0)

    def broken(self, row: Row, half: str = SELECTION) -> list[str]:
        """The constraints that a row breaks, each with by how much; empty where it is feasible."""
        return [one.broken(row, half) for one in self.constraints if one.excess(row, half) > 0]


def written_objective(spec: StudySpec) -> str:
    """What a table of a study's rows says of its objective; empty for the weighted sum.

    Whoever reads it may not have the spec, which alone says the better side of the study's own
    columns: their bounds are written out.
    """
    objective, columns = spec.objective, study_columns(spec)
    place = f"{spec.name}: objective.subject_to"
    bounds = {
        metric: _as_limits(bound, columns[metric], metric, place)
        if metric in columns and metric not in COLUMNS and not isinstance(bound, Limits)
        else bound
        for metric, bound in objective.subject_to.items()
    }
    return objective.model_copy(update={"subject_to": bounds}).beyond_weights()


def metric_columns(spec: StudySpec | None = None) -> Mapping[str, Column]:
    """The columns that rows of a study have, by name; of any study where none is given."""
    return COLUMNS if spec is None else study_columns(spec)


def metric_column(metric: str, columns: Mapping[str, Column] = COLUMNS) -> Column:
    """The column of a metric that is named without its half; that of the selection half.

    Raises:
        KeyError: no column is called so.
    """
    halved = f"{metric}_{SELECTION}"
    return columns[halved] if halved in columns else columns[metric]


def objective_of(
    written: ObjectiveSpec, columns: Mapping[str, Column] = COLUMNS, where: str = ""
) -> Objective:
    """What an objective as it is written means for rows with these columns.

    Raises:
        UserError: as in `Objective.of`.
    """
    place = f"{where + ': ' if where else ''}objective"
    aim = written.aim
    if aim is not None:
        way, metric, _ = aim
        column = _column(metric, columns, f"{place}.{way}")
        if column.direction == "target" and way != "approach":
            raise UserError(
                f"{place}.{way}: the best {metric} is neither low nor high; write "
                f"`approach: {{{metric}: 0.5}}`, or bound it in `subject_to`"
            )
    return Objective(aim, tuple(_constraints(written, columns, f"{place}.subject_to")))


def _check_measured(objective: Objective, spec: StudySpec) -> None:
    """Refuse metrics that this study does not measure."""
    _check_late_tasks(objective, spec)
    late = {name for one in spec.evaluation.generate if one.at == "last" for name in one.sets}
    for metric in objective.metrics:
        found = set_of(metric)
        if found is not None and found[0] in late and found[1].startswith(("rouge", "exact_match")):
            raise UserError(
                f"{spec.name}: objective: `{metric}` is measured at the last row of a trial alone; "
                "set `at: every` in `evaluation.generate`"
            )
    model = spec.model
    if "exact_distance" in objective.metrics and model.exact_retrain is None:
        raise UserError(
            f"{spec.name}: objective: `exact_distance` is measured against an exactly retrained "
            "model; name one in `model.exact_retrain`"
        )
    known = model.pretraining_tokens or model.source.startswith("demo:")
    if "efficiency_ratio" in objective.metrics and not known:
        raise UserError(
            f"{spec.name}: objective: `efficiency_ratio` needs the cost of retraining; say "
            "`model.pretraining_tokens`, or bound `flops`"
        )


def _check_late_tasks(objective: Objective, spec: StudySpec) -> None:
    late = {name for task in spec.evaluation.tasks if task.at == "last" for name in task.columns}
    for metric in objective.metrics:
        if metric in late:
            raise UserError(
                f"{spec.name}: objective: `{metric}` is measured at the last row of a trial alone; "
                "set `at: every` in `evaluation.tasks`"
            )


def _constraints(
    written: ObjectiveSpec, columns: Mapping[str, Column], place: str
) -> Iterator[Constraint]:
    for metric, bounds in written.subject_to.items():
        column = _column(metric, columns, place)
        limits = bounds if isinstance(bounds, Limits) else _as_limits(bounds, column, metric, place)
        if limits.at_least is not None:
            yield Constraint(metric, limits.at_least, is_most=False)
        if limits.at_most is not None:
            yield Constraint(metric, limits.at_most, is_most=True)


def _as_limits(bound: float, column: Column, metric: str, place: str) -> Limits:
    """The side of a bare number, from the metric's direction."""
    if column.direction == "minimize":
        return Limits(at_most=bound)
    if column.direction == "maximize":
        return Limits(at_least=bound)
    raise UserError(
        f"{place}.{metric}: {bound:g} may be its most or its least; write "
        f"`{metric}: {{at_most: {bound:g}}}` or `{metric}: {{at_least: {bound:g}}}`"
    )


def _column(metric: str, columns: Mapping[str, Column], place: str) -> Column:
    """The column of a metric; of a halved one that of the selection half."""
    if metric == SCORE_NAME:
        raise UserError(f"{place}: `score` is what the objective makes; name one of its parts")
    try:
        return metric_column(metric, columns)
    except KeyError:
        names = {name.removesuffix(f"_{half}") for name in columns for half in HALVES} - {
            SCORE_NAME
        }
        names = {name for name in names if not name.endswith(tuple(f"_{h}" for h in HALVES))}
        hint = elsewhere(METRICS, metric) or unmeasured(metric) or _nearest_metric(metric, names)
        raise UserError(f"{place}: unknown metric {metric!r}{hint}") from None


def _nearest_metric(metric: str, names: set[str]) -> str:
    """The name of the same words in another order, else the most similar one."""
    words = sorted(metric.split("_"))
    same = sorted(name for name in names if sorted(name.split("_")) == words)
    return f"; did you mean {same[0]!r}?" if same else nearest(metric, names)


def _value(row: Row, metric: str, half: str) -> float:
    """A metric of a row on a half, or whole where it is not halved; NaN where it is absent."""
    halved = f"{metric}_{half}"
    value = row.get(halved)
    if value is None:
        value = row.get(metric)
    return math.nan if value is None else float(value)
