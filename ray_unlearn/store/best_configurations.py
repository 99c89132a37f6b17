"""The best configurations of a study, each once. The rule is that of `store.score`: the selection
half, never the other."""

from dataclasses import dataclass
from typing import Any

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import Hyperparameters
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE, best_row

HYPERPARAMETERS = tuple(Hyperparameters.model_fields)


@dataclass(frozen=True)
class Configuration:
    """A configuration as the study found it."""

    trial: Trial
    row: Row
    """The trial's best row: with free steps its update is the configuration's number of steps."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All of them; `steps` is the update of the row."""
        return {name: self.trial.config[name] for name in HYPERPARAMETERS} | {
            "steps": self.row["update"]
        }


def top_configurations(
    record: Record, spec: StudySpec, count: int, per_method: bool = False
) -> list[Configuration]:
    """The `count` configurations with the lowest score, over all methods or of each; fewer where
    there are fewer.

    Trials that differ in their seed only are one configuration, with the seed that scored best:
    with free steps too, where their best rows may differ in update.
    """
    scored = [
        Configuration(t, row) for t in record.finished if (row := best_row(t, spec)) is not None
    ]
    scored.sort(key=lambda found: (found.row[OBJECTIVE], found.trial.number))
    distinct: dict[tuple[Any, ...], Configuration] = {}
    for found in scored:
        key = (found.trial.method, *(found.trial.config[name] for name in HYPERPARAMETERS))
        distinct.setdefault(key, found)
    if not per_method:
        return list(distinct.values())[:count]
    of = {
        method: [f for f in distinct.values() if f.trial.method == method]
        for method in spec.methods
    }
    return [found for method in spec.methods for found in of[method][:count]]
