"""Studies and trials for tests of the search: no model, no data, metrics invented by the test."""

from collections.abc import Callable
from typing import Any

from ray_unlearn.spec.data_spec import DataSpec
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.objective_spec import ObjectiveSpec
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.study_spec import EvaluationSpec, StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Outcome, Row

LR: dict[str, Any] = {
    "type": "float",
    "low": 1e-5,
    "high": 1e-2,
    "scale": "log",
    "grid": [1e-5, 1e-4, 1e-3],
}
FREE_STEPS: dict[str, Any] = {"type": "int", "low": 1, "high": 30, "free": True}
TARGET_NLL = 3.0


def space(method: str = "gradient_ascent", **parameters: Any) -> SearchSpace:
    """A search space over log learning rate with free steps, unless told otherwise; a bare value is
    fixed."""
    given = {"learning_rate": LR, "steps": FREE_STEPS} | parameters
    long = {
        n: p if isinstance(p, dict) else {"type": "fixed", "value": p} for n, p in given.items()
    }
    return SearchSpace.model_validate({"method": method, "parameters": long})


def study(
    *spaces: SearchSpace,
    evaluate_at: tuple[int, ...] = (1, 3, 9, 30),
    pareto: bool = False,
    objective: dict[str, Any] | None = None,
    full: SearchSpace | None = None,
    **search: Any,
) -> StudySpec:
    """A study of these spaces, one of which was `full` before it was narrowed; keyword arguments
    are of its `search` section."""
    spaces = spaces or (space(),)
    if search.get("sampler") != "grid":
        search = {"trials_per_method": 20} | search
    return StudySpec.model_validate(
        {
            "name": "test",
            "model": ModelSpec(source="demo:shakespeare"),
            "data": DataSpec(source="demo:shakespeare"),
            "methods": [s.method for s in spaces],
            "spaces": {s.method: s for s in spaces},
            "full_spaces": {full.method: full} if full else None,
            "search": search,
            "objective": ObjectiveSpec(pareto=pareto, **(objective or {})),
            "evaluation": EvaluationSpec(at=evaluate_at),
        }
    )


def row(update: int, score: float, **metrics: float) -> Row:
    """An evaluation row with this score, all of it forget gap unless told otherwise."""
    whole = {
        "score_selection": score,
        "forget_gap_selection": score,
        "utility_loss_selection": 0.0,
        "forget_nll": TARGET_NLL - score,
    }
    return {"update": update, "wall_s": 2.0 * update, "evaluation_wall_s": 1.0} | whole | metrics


def finished(
    number: int,
    config: TrialConfig,
    rows: list[Row],
    status: Outcome | None = "complete",
    reason: str = "",
) -> Trial:
    """A trial as the ledger tells it."""
    return Trial(number, config.id, config.model_dump(mode="json"), rows, status, reason)


def record(spec: StudySpec, *trials: Trial) -> Record:
    """A ledger of these trials."""
    header = Header(spec=spec.model_dump(mode="json"), domain="test")
    return Record(
        header,
        {"vanilla": {"approximate_nll_selection": TARGET_NLL}},
        {trial.number: trial for trial in trials},
    )


def run(
    spec: StudySpec, score: Callable[[TrialConfig], float | None], trials: int | None = None
) -> list[Trial]:
    """A whole search with one lane: each trial has one row, at its last step; no score means
    infeasible."""
    from ray_unlearn.execution.search import Search

    search = Search(spec, "context")
    done = []
    for number in range(search.total if trials is None else trials):
        config = search.ask(number)
        assert config is not None
        value = score(config)
        rows = [] if value is None else [row(config.steps, value)]
        trial = finished(number, config, rows, "diverged" if value is None else "complete")
        search.tell(trial)
        done.append(trial)
    return done
