"""One method on one trained model of a table: its configurations, and the curve of each."""

import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.tabular.tabular_files import FACTS, PathLike, load_facts, load_table

AS_TRAINED = 1.0
COSTS = ("wall_s", "evaluation_wall_s", "flops", "forget_tokens", "retain_tokens", "elapsed_s")
"""Columns that only grow: a trial that has diverged costs nothing more."""
ELAPSED = "elapsed_s"
Direction = Literal["minimize", "maximize"]
Point = Mapping[str, Any]
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Of a table.json whose values are of other types than ours."""


class MethodTable:
    """The listed configurations of a method, and what was measured at each update.

    A point that is not listed is answered by the nearest listed one: distances are Euclidean after
    each range was brought to [0, 1] on its scale, and another choice is 1 away. Nothing is
    interpolated: `left_out_errors` says what taking the nearest costs.

    Attributes:
        space: by hyperparameter, type, bounds and scale of what was searched.
        updates: the evaluated updates, rising.
        configurations: one line per configuration, by its number.
        columns: what was measured; `elapsed_s` is the seconds of updates and evaluation so far.
        directions: by column, `minimize` or `maximize` where it has a direction.

    Args:
        path: the table's folder.
        domain: `shakespeare`, `stdlib`, `latex`.
        method: one of the table's methods.
        trained_model: number of the trained model.
        seed: of the trials; all configurations have seed 0, a few have others too.

    Raises:
        UserError: there is no such table, domain, method, model or seed.
    """

    def __init__(
        self, path: PathLike, domain: str, method: str, trained_model: int = 0, seed: int = 0
    ) -> None:
        self.domain, self.method = domain, method
        self.trained_model, self.seed = trained_model, seed
        facts = load_facts(path)
        try:
            self._read(path, facts)
        except UserError:
            raise
        except MALFORMED as error:
            said = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{os.fspath(path)}: {FACTS} is damaged: {said}; fetch it again"
            ) from None

    def _read(self, path: PathLike, facts: Mapping[str, Any]) -> None:
        method, trained_model, seed = self.method, self.trained_model, self.seed
        stem = _file_of(facts, self.domain, method)
        about = facts["files"][stem]
        self.space: dict[str, dict[str, Any]] = about["methods"][method]["space"]
        for name, parameter in self.space.items():
            _check_parameter(name, parameter)
        self.updates: tuple[int, ...] = tuple(about["updates"])
        self.directions: dict[str, Direction] = {
            name: column["direction"]
            for name, column in facts["columns"].items()
            if column["direction"] in ("minimize", "maximize")
        }
        table = load_table(path, stem)
        own = table[(table["method"] == method) & (table["trained_model"] == trained_model)]
        if own.empty:
            known = sorted(table["trained_model"].unique().tolist())
            raise UserError(f"trained_model {trained_model}: the table has {known} in {stem}")
        seeds = sorted(own["seed"].unique().tolist())
        if seed not in seeds:
            raise UserError(f"seed {seed}: the table has {seeds} of {method}")
        own = own[(own["seed"] == seed) & (own["strength"] == AS_TRAINED)]
        own = own.assign(**{ELAPSED: own["wall_s"] + own["evaluation_wall_s"]})
        names = list(self.space)
        self.configurations = own.groupby("configuration")[names].first()
        every = [str(name) for name in own]
        self.columns: tuple[str, ...] = tuple(every[every.index("strength") + 1 :])
        index = pd.MultiIndex.from_product([self.configurations.index, self.updates])
        whole = own.set_index(["configuration", "update"])[list(self.columns)].reindex(index)
        self._values = _filled(whole, self.directions, len(self.updates))
        self._unit = self._in_unit_cube(self.configurations)

    def nearest(self, point: Point) -> int:
        """The number of the listed configuration that is nearest to a point.

        Args:
            point: a value for each hyperparameter of `space`, others beside them.

        Raises:
            UserError: a value is missing.
        """
        missing = [name for name in self.space if name not in point]
        if missing:
            raise UserError(f"{self.method}: a point needs {missing[0]!r}{nearest('', self.space)}")
        where = self._in_unit_cube(pd.DataFrame([{name: point[name] for name in self.space}]))
        return int(self.configurations.index[int(self._distances(where[0]).argmin())])

    def curve(self, configuration: int) -> pd.DataFrame:
        """What was measured of a configuration, as trained: a line per update, a column each.

        After a trial has diverged, columns with a direction are infinitely bad, costs stay, and
        others are NaN.
        """
        place = self.configurations.index.get_loc(configuration)
        values = self._values[place]
        return pd.DataFrame(
            values, index=pd.Index(self.updates, name="update"), columns=self.columns
        )

    def values(self, column: str) -> NDArray[np.float64]:
        """One column of all configurations, [configurations, updates].

        Raises:
            UserError: there is no such column.
        """
        if column not in self.columns:
            raise UserError(f"{column!r} is no column of the table{nearest(column, self.columns)}")
        found: NDArray[np.float64] = self._values[:, :, self.columns.index(column)]
        return found

    def direction(self, column: str) -> Direction:
        """Whether a column is better when it is lower or higher.

        Raises:
            UserError: it has no direction, or there is no such column.
        """
        self.values(column)
        if column not in self.directions:
            raise UserError(f"{column!r} has no direction and cannot be an objective")
        return self.directions[column]

    def left_out_errors(self, column: str = "score_selection") -> NDArray[np.float64]:
        """The errors of answering each configuration by its nearest other one, [configurations].

        Compared are best values over the updates, by the column's direction; trials that never had
        a finite one are left out.
        """
        best = self.values(column).min(1)
        if self.direction(column) == "maximize":
            best = self.values(column).max(1)
        others = np.array([self._distances(u) for u in self._unit])
        np.fill_diagonal(others, math.inf)
        errors = np.abs(best - best[others.argmin(1)]) if len(best) > 1 else np.empty(0)
        return errors[np.isfinite(errors)]

    def _distances(self, where: NDArray[np.float64]) -> NDArray[np.float64]:
        apart = np.abs(self._unit - where)
        choices = [parameter["type"] == "choice" for parameter in self.space.values()]
        apart[:, choices] = apart[:, choices] > 0
        found: NDArray[np.float64] = np.sqrt((apart**2).sum(1))
        return found

    def _in_unit_cube(self, points: pd.DataFrame) -> NDArray[np.float64]:
        columns = [_unit(points[name], parameter) for name, parameter in self.space.items()]
        return np.stack(columns, axis=1) if columns else np.zeros((len(points), 0))


def _file_of(facts: Mapping[str, Any], domain: str, method: str) -> str:
    own = {stem: file for stem, file in facts["files"].items() if file["domain"] == domain}
    if not own:
        known = {file["domain"] for file in facts["files"].values()}
        raise UserError(f"the table has no domain {domain!r}{nearest(domain, known)}")
    for stem, file in own.items():
        if method in file["methods"]:
            return str(stem)
    known = {name for file in own.values() for name in file["methods"]}
    raise UserError(f"the table has no method {method!r} in {domain}{nearest(method, known)}")


def _check_parameter(name: str, parameter: Mapping[str, Any]) -> None:
    if parameter["type"] == "choice":
        return
    low, high = parameter["low"], parameter["high"]
    if not -math.inf < low < high < math.inf or (parameter["scale"] == "log" and low <= 0):
        raise ValueError(f"{name} has no range from {low} to {high}")


def _unit(values: pd.Series, parameter: Mapping[str, Any]) -> NDArray[np.float64]:
    if parameter["type"] == "choice":
        return np.array([parameter["choices"].index(value) for value in values], dtype=float)
    low, high = parameter["low"], parameter["high"]
    found = values.to_numpy(dtype=float)
    if parameter["scale"] == "log":
        return np.log(found / low) / math.log(high / low)
    return (found - low) / (high - low)


def _filled(
    whole: pd.DataFrame, directions: Mapping[str, str], updates: int
) -> NDArray[np.float64]:
    """[configurations, updates, columns], with what stands after a divergence."""
    missing = whole["forget_nll"].isna()
    filled = whole.astype(float)
    for name in map(str, whole.columns):
        if name in COSTS:
            filled[name] = filled[name].groupby(level=0).ffill().fillna(0.0)
        elif name in directions:
            filled.loc[missing, name] = math.inf if directions[name] == "minimize" else -math.inf
    found: NDArray[np.float64] = filled.to_numpy().reshape(-1, updates, len(whole.columns))
    return found
