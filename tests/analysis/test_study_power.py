"""What `plan` says a study can find out: from the table of planted studies, true of new ones."""

import json
import sys
from pathlib import Path

import pytest

from ray_unlearn.analysis.study_power import (
    SURE,
    power_sentences,
    powers_of,
    study_power,
)
from ray_unlearn.spec.study_file import load_study

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import study_power as benchmark  # noqa: E402


def test_more_trials_tell_more_and_noise_tells_less() -> None:
    for curves in (True, False):
        for axes in (1, 2, 4):
            said = [study_power(axes, n, 1.0, curves) for n in (4, 8, 10, 20, 40, 100, 500)]
            assert [one.claimed for one in said] == sorted(one.claimed for one in said)
            assert study_power(axes, 20, 0.5, curves).claimed >= said[3].claimed - 0.1
            assert said[-1].claimed >= SURE
    assert study_power(3, 20) == study_power(4, 20), "the next greater number was measured"
    assert study_power(1, 20).left_alone is None
    assert study_power(2, 2).claimed == 0.0
    assert study_power(1, 7, 0.5).claimed == 0.0, "no region rests on fewer than 8 trials"
    assert study_power(1, 8, 0.5).claimed > 0.5


def test_the_trials_that_are_enough_are_where_the_probability_is_reached() -> None:
    for noise in (0.5, 1.0):
        found = study_power(2, 8, noise)
        assert found.enough is not None
        assert study_power(2, found.enough, noise).claimed >= SURE - 1e-9
        assert study_power(2, found.enough - 2, noise).claimed < SURE


@pytest.mark.parametrize("curves", [True, False])
def test_the_table_is_that_of_today(curves: bool) -> None:
    """A study that is said to claim a range nearly always does, and one of 4 trials never."""
    assert study_power(2, 40, 0.5, curves).claimed >= 0.95
    said = [benchmark.studied((curves, 2, 40, 0.5, 1_000 + seed)) for seed in range(3)]
    assert sum(claimed for claimed, _, _ in said) >= 2
    assert sum(good for _, _, good in said) >= 2
    assert not benchmark.studied((curves, 2, 4, 0.5, 1_000))[0]


@pytest.mark.parametrize("given", [(0, 8, 1.0), (1, 0, 1.0), (1, 8, 0.7)])
def test_what_was_not_measured_is_refused(given: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|was not measured"):
        study_power(*given)


def test_a_plan_groups_methods_that_are_searched_alike() -> None:
    spec = load_study(ROOT / "studies" / "demo.yaml")
    trials = dict.fromkeys(spec.methods, 12)
    powers = powers_of(spec, trials, dict.fromkeys(spec.methods, 5))
    assert sorted(m for one in powers for m in one.methods) == sorted(spec.methods)
    assert len({(one.axes, one.trials) for one in powers}) == len(powers)
    lines = list(power_sentences(powers))
    assert lines[0].startswith("what 12 trials of each of ")
    assert any("a good range would take about " in line for line in lines)
    single = powers_of(spec, trials, dict.fromkeys(spec.methods, 1))
    assert single[0].usual == study_power(single[0].axes, 12, 1.0, curves=False)


def test_plan_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray_unlearn.cli.main import main

    said = []
    for more in ([], ["--json"]):
        monkeypatch.setattr(
            sys, "argv", ["ray-unlearn", "plan", str(ROOT / "studies/demo.yaml"), *more]
        )
        with pytest.raises(SystemExit):
            main()
        said.append(capsys.readouterr().out)
    text, found = " ".join(said[0].split()), json.loads(said[1])
    for one in found["power"]:
        assert f"a good setting with probability {one['usual']['good']:.2f}" in text
