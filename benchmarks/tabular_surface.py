"""A method's rows at any point, looked up in the tabular benchmark, for `search_time.py`.

Between configurations the nearest listed one answers, so all rows are real; what that costs is
printed with every comparison.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.row_score import Baselines
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE
from ray_unlearn.tabular import MethodTable, load_facts

TEMPLATE = Path(__file__).parent.parent / "studies" / "tabular" / "world.yaml"


class TabularSurface:
    """What `search_time.Surface` is, from a table."""

    def __init__(self, folder: Path, domain: str, method: str, trained_model: int) -> None:
        self.table = MethodTable(folder, domain, method, trained_model)
        self.updates = list(self.table.updates)
        self.axes = {name: [p["low"], p["high"]] for name, p in self.table.space.items()}
        facts = next(
            file for file in load_facts(folder)["files"].values()
            if file["domain"] == domain and method in file["methods"]
        )  # fmt: skip
        self.baselines = Baselines(facts["models"][str(trained_model)]["baselines"]["vanilla"])
        seconds = {name: self.table.values(name)[:, -1] for name in ("wall_s", "evaluation_wall_s")}
        self.update_s = float(np.median(seconds["wall_s"])) / self.updates[-1]
        self.evaluation_s = float(np.median(seconds["evaluation_wall_s"])) / len(self.updates)
        self._rows: dict[int, dict[int, Row]] = {}

    @property
    def trajectory_s(self) -> float:
        """Seconds of a full trajectory with all evaluations."""
        return self.updates[-1] * self.update_s + len(self.updates) * self.evaluation_s

    def rows(self, point: Mapping[str, Any]) -> dict[int, Row]:
        """The nearest configuration's rows by update; they end where it diverged."""
        number = self.table.nearest(point)
        if number not in self._rows:
            lines = self.table.curve(number).dropna(subset="forget_nll").to_dict("index")
            self._rows[number] = {u: row | {"update": u} for u, row in lines.items()}
        return self._rows[number]

    @property
    def best(self) -> float:
        """The least score of all configurations."""
        return float(self.table.values(OBJECTIVE).min())

    def said(self) -> str:
        """Size, best score and error of the nearest answer, in words."""
        errors = self.table.left_out_errors(OBJECTIVE)
        if not len(errors):
            raise SystemExit(f"{self.table.method}: one configuration is no search; give more")
        scores = self.table.values(OBJECTIVE).min(1)
        shares = [f"{np.mean(scores <= self.best * (1 + t)):.1%}" for t in (0.05, 0.10, 0.25)]
        return (
            f"{len(scores)} configurations, updates {self.updates}; best score {self.best:.4f}; "
            f"{', '.join(shares)} within 5, 10, 25 %; a left-out best score is answered to "
            f"{np.median(errors):.4f} (median), {np.quantile(errors, 0.9):.4f} (90 %) nats/token"
        )


def tabular_study(method: str) -> StudySpec:
    """The study whose spaces the demo's tables were searched in, with one method."""
    content = load_study(TEMPLATE).model_dump(mode="json")
    content |= {"methods": [method], "spaces": {method: content["spaces"][method]}}
    return StudySpec.model_validate(content)
