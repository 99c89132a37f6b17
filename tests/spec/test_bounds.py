"""Numbers are bounded where they enter. If these fail, a study runs for hours and then breaks."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from test_study_files import demo, put

from ray_unlearn.spec.bounds import LARGEST_SEED
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import METHODS, known_hyperparameters, value_type
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig

HUGE = (10**400, -(10**400), 1e308, float("inf"), float("nan"))


def numbers_in(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every number of a resolved study, and of every setting that may be one."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from numbers_in(value, (*place, key))
    elif content is None or (isinstance(content, int | float) and not isinstance(content, bool)):
        yield place


def changed(content: dict[str, Any], place: tuple[Any, ...], value: object) -> dict[str, Any]:
    new = copy.deepcopy(content)
    owner: Any = new
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    return new


def test_a_number_that_nothing_can_hold_is_refused_with_its_place(tmp_path: Path) -> None:
    """Every number of a study file, one at a time; whatever is accepted is within bounds."""
    path = demo(tmp_path, put("methods", ["gradient_ascent", "ascent_kl_general"]))
    content = load_study(path).model_dump(mode="json")
    places = list(numbers_in(content))
    assert len(places) > 60
    for place in places:
        for value in HUGE:
            with pytest.raises(UserError) as caught:
                validated(StudySpec, changed(content, place, value), "f.yaml")
            assert str(place[0]) in str(caught.value), place


@pytest.mark.parametrize("name", known_hyperparameters())
@pytest.mark.parametrize("value", HUGE)
def test_a_hyperparameter_is_a_number_that_its_column_holds(name: str, value: float) -> None:
    method = next(m.name for m in METHODS.values() if name in m.hyperparameters)
    content = {"method": method, "learning_rate": 1e-3, "steps": 9, "evaluate_at": [9]}
    with pytest.raises(ValueError, match=name):
        TrialConfig.model_validate(content | {name: value})
    assert value_type(name) in (int, float, str)


def test_the_largest_seed_is_accepted_and_has_a_column_and_the_next_is_refused(
    tmp_path: Path,
) -> None:
    spec = load_study(demo(tmp_path, put("search.trial_seeds", [20240611, LARGEST_SEED])))
    assert pa.array(spec.search.trial_seeds, pa.int64()).to_pylist() == [20240611, 2**63 - 1]
    path = demo(tmp_path, put("search.trial_seeds", [LARGEST_SEED + 1]))
    with pytest.raises(
        UserError, match=r"trial_seeds\.0: .*less than or equal to 9223372036854775807, got 922337"
    ):
        load_study(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: " + "9" * 5000, "a value cannot be read"), ("day: 2026-13-45", "a value cannot be")],
)
def test_a_value_that_yaml_cannot_read_is_the_users_error(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_study(path)


def test_a_range_too_wide_to_draw_from_is_refused(tmp_path: Path) -> None:
    wide = {"type": "float", "low": 1e-320, "high": 1.0, "scale": "log"}
    with pytest.raises(UserError, match="too wide to draw from"):
        load_study(demo(tmp_path, put("space_overrides.learning_rate", wide)))


@pytest.mark.parametrize(
    ("every", "steps", "times"),
    [
        (1, 10**9, "1,000,000,000"),
        pytest.param(2, 200_001, "100,001", id="the last step is one more"),
    ],
)
def test_evaluations_that_would_fill_memory_are_refused(
    tmp_path: Path, every: int, steps: int, times: str
) -> None:
    content = yaml.safe_load(demo(tmp_path, put("evaluation", {"every": every})).read_text())
    content["space_overrides"]["steps"] = {"type": "int", "low": 1, "high": steps, "free": True}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"{times} times, at most 100,000.*raise it"):
        load_study(path)


def test_an_override_that_no_method_uses_is_refused(tmp_path: Path) -> None:
    path = demo(tmp_path, put("methods", ["gradient_ascent"]))
    with pytest.raises(UserError, match=r"space_overrides\.w_r: no method of this study uses it"):
        load_study(path)
