"""The table as an Optuna objective with OptunaHub's interface (`optunahub.benchmarks.BaseProblem`).

It has the members of that class without being one, so that optunahub need not be installed;
`class Problem(TabularProblem, BaseProblem)` makes it one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.tabular.method_table import MethodTable
from ray_unlearn.tabular.tabular_files import PathLike

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection


class TabularProblem:
    """One method on one trained model as a problem to be searched.

    A point is answered by the nearest listed configuration (`MethodTable.nearest`). Steps are free:
    without `update` its value is the best one over all updates, as one trial of that length gives
    it. A configuration that diverged before is infinitely bad.

    Args:
        path: the table's folder.
        domain: as in `MethodTable`, like `method` and `trained_model`.
        method: the method.
        trained_model: number of the trained model.
        objectives: columns to minimise or maximise, as their direction says.
        update: the update whose row is taken; None: the best row by the one objective.
        prune: report each update's value to the trial and stop it when its pruner says so; for one
            objective without `update`.

    Raises:
        UserError: as `MethodTable`; a column without a direction; several objectives without
            `update`; an update that was not evaluated.
    """

    def __init__(
        self,
        path: PathLike,
        domain: str,
        method: str,
        trained_model: int = 0,
        *,
        objectives: Sequence[str] = ("score_selection",),
        update: int | None = None,
        prune: bool = False,
    ) -> None:
        self.table = MethodTable(path, domain, method, trained_model)
        self.objectives = tuple(objectives)
        self._senses = [self.table.direction(name) for name in self.objectives]
        if update is None and len(self.objectives) != 1:
            raise UserError(
                f"objectives {self.objectives}: the best row is that of one objective; give "
                "`update` for several"
            )
        if update is not None and update not in self.table.updates:
            raise UserError(f"update {update}: the table has {list(self.table.updates)}")
        if prune and update is not None:
            raise UserError("prune: needs the whole curve; leave `update` out")
        self._update, self._prune = update, prune

    @property
    def search_space(self) -> "dict[str, BaseDistribution]":
        """Optuna's distributions of the hyperparameters that were searched."""
        return {name: _distribution(p) for name, p in self.table.space.items()}

    @property
    def directions(self) -> "list[StudyDirection]":
        """Optuna's direction of each objective."""
        from optuna.study import StudyDirection

        return [StudyDirection[sense.upper()] for sense in self._senses]

    def evaluate(self, params: Mapping[str, Any]) -> float | list[float]:
        """The value of a point; a list where there are several objectives."""
        curves = self._curves(params)
        if self._update is None:
            return self._best(curves[0])
        place = self.table.updates.index(self._update)
        values = [curve[place] for curve in curves]
        return values if len(values) > 1 else values[0]

    def __call__(self, trial: Any) -> float | list[float]:
        """Objective for `optuna.study.Study.optimize`.

        Raises:
            optuna.TrialPruned: with `prune`, when the study's pruner stops the trial.
        """
        params = {n: trial._suggest(n, d) for n, d in self.search_space.items()}
        trial.set_user_attr("configuration", self.table.nearest(params))
        if self._prune:
            self._report(trial, params)
        return self.evaluate(params)

    def evaluate_constraints(self, params: Mapping[str, Any]) -> dict[str, float]:
        """No constraints."""
        return {}

    def _curves(self, params: Mapping[str, Any]) -> list[list[float]]:
        """Each objective at all updates."""
        curve = self.table.curve(self.table.nearest(params))
        return [curve[name].tolist() for name in self.objectives]

    def _best(self, values: Sequence[float]) -> float:
        return min(values) if self._senses[0] == "minimize" else max(values)

    def _report(self, trial: Any, params: Mapping[str, Any]) -> None:
        from optuna import TrialPruned

        best = math.inf if self._senses[0] == "minimize" else -math.inf
        for update, value in zip(self.table.updates, self._curves(params)[0], strict=True):
            best = self._best([best, value])
            trial.report(best, update)
            if trial.should_prune():
                raise TrialPruned(f"after update {update}")


def _distribution(parameter: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter["type"] == "choice":
        return CategoricalDistribution(parameter["choices"])
    kind = IntDistribution if parameter["type"] == "int" else FloatDistribution
    return kind(parameter["low"], parameter["high"], log=parameter["scale"] == "log")
