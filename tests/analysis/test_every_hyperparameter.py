"""Each hyperparameter that a space accepts is seen everywhere. If these fail, a study searches what
no table, axis or note of its report shows."""

from pathlib import Path
from typing import Any

import pytest

from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.wording import other_values
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.spec.data_spec import SPLITS
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS
from ray_unlearn.spec.method_registry import METHODS, known_hyperparameters, value_type
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import BaselineMeasured, Header, RowMeasured, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.store.table import CONFIG_COLUMNS, result_table, write_table


def method_with(name: str) -> str:
    """A method that uses the hyperparameter, ascent + KL on general data where that does."""
    return min(
        (method for method in METHODS.values() if name in method.hyperparameters),
        key=lambda method: method.name != "ascent_kl_general",
    ).name


RANGES: dict[type, dict[str, Any]] = {
    float: {"type": "float", "low": 0.25, "high": 0.75},
    int: {"type": "int", "low": 1, "high": 3},
}
CHOICES = {"schedule": ("constant", "linear", "cosine"), "optimizer": ("adamw", "sgd", "signsgd")}
VALUES: dict[type, tuple[Any, ...]] = {
    float: (0.25, 0.5, 0.75),
    int: (1, 2, 3),
}


def values_of(name: str) -> tuple[Any, ...]:
    return CHOICES.get(name) or VALUES[value_type(name)]


def range_of(name: str) -> dict[str, Any]:
    choices = CHOICES.get(name)
    return {"type": "choice", "choices": choices} if choices else RANGES[value_type(name)]


def searching(name: str) -> StudySpec:
    """A study that searches one hyperparameter."""
    method = method_with(name)
    parameters = {
        "learning_rate": {"type": "fixed", "value": 0.5},
        "steps": {"type": "fixed", "value": 4},
    }
    if name == "warmup_ratio":
        parameters["schedule"] = {"type": "fixed", "value": "cosine"}
    parameters[name] = range_of(name)
    needs = METHODS[method]
    adapters = {"lora": {"rank": 4}} if needs.adapters else {}
    asked = {"path": "nowhere.jsonl", "prompt": "question", "answer": "answer"}
    data = {"domain": "d", "splits": dict.fromkeys(SPLITS, asked)} if needs.other_answers else {}
    return StudySpec.model_validate(
        {
            "name": "test",
            "model": {"source": "demo:shakespeare"} | adapters,
            "data": data or {"source": "demo:shakespeare"},
            "methods": [method],
            "spaces": {method: {"method": method, "parameters": parameters}},
            "search": {"trials_per_method": 3},
            "evaluation": {"every": 9},
        }
    )


def written(folder: Path, name: str) -> Path:
    """Its directory, with a trial for each of three values."""
    spec, metrics = searching(name), dict.fromkeys(COLUMNS, 1.0)
    header = Header(spec=spec.model_dump(mode="json"), domain="d", context="c")
    with Ledger.create(folder / "ledger", header) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics))
        for number, value in enumerate(values_of(name)):
            hyperparameters = spec.spaces[method_with(name)].resolve({name: value})
            config = spec.trial_config(hyperparameters, method_with(name), 0, "c")
            content = config.model_dump(mode="json")
            ledger.append(
                TrialAsked(number=number, trial_id=config.id, source="random", config=content)
            )
            row = metrics | {"update": config.steps, "score_selection": 1.0 + number}
            ledger.append(RowMeasured(number=number, attempt=0, update=config.steps, metrics=row))
            ledger.append(TrialEnded(number=number, attempt=0, status="complete", reason=""))
    return folder


@pytest.mark.parametrize("name", known_hyperparameters())
def test_what_is_searched_is_in_tables_axes_words_and_exports(name: str, tmp_path: Path) -> None:
    study, values = written(tmp_path / "study", name), list(values_of(name))
    table = result_table(read_ledger(study / "ledger"))
    assert table[name].to_pylist() == values
    write_table(table, tmp_path / "rows.csv")
    for source in (study, tmp_path / "rows.csv"):
        results = load([source])
        trials = trial_table(results)
        (axes,) = trials.axes.values()
        assert [axis.name for axis in axes] == [name]
        shown = [str(value) for value in trials.trials[name]]
        assert shown == [str(type(trials.trials[name][0])(value)) for value in values]
        if name not in ("learning_rate", "steps"):  # the sentence names these two always
            assert list(other_values(results.studies[0], results.studies[0].rows.iloc[0])) == [name]


def test_every_hyperparameter_has_a_column() -> None:
    assert ("method", "seed", *HYPERPARAMETERS) == CONFIG_COLUMNS
