"""A grade promises evidence: no claim may get a better one than its domains, seeds and held-out
results allow."""

import pytest

from ray_unlearn.analysis.guidelines.grades import (
    grade_of,
    not_comparable,
    not_traced,
    unpredicted,
    worse_than_default,
)
from ray_unlearn.analysis.statistics.surface_check import SurfaceCheck
from ray_unlearn.spec.guideline_file import Evidence, Heldout


def evidence(
    groups,
    better=None,
    regret=0.1,
    default=0.3,
    full=0.2,
    trials=200,
    seeds=3,
    sampler="random",
    models=2,
):
    heldout = None
    if better is not None:
        heldout = Heldout(
            groups=tuple(f"g{i}" for i in range(groups)),
            better=better,
            trials_inside=4,
            regret=regret,
            regret_default=default,
            regret_full_space=full,
        )
    return Evidence(
        n_trials=trials,
        n_groups=groups,
        n_models=models,
        n_seeds=seeds,
        sampler=sampler,
        heldout=heldout,
    )


@pytest.mark.parametrize(
    ("groups", "better", "grade"),
    [
        (1, None, "scoped"),
        (2, 2, "scoped"),
        (3, 3, "C"),
        (4, 4, "C"),
        (5, 5, "B"),
        (8, 8, "B"),
        (9, 9, "A"),
        (12, 12, "A"),
        (9, 8, "C"),
        (5, None, "C"),
        (6, 3, "C"),
    ],
)
def test_grade_by_domains_and_held_out_results(groups, better, grade):
    assert grade_of(evidence(groups, better)) == grade


def test_one_seed_is_stated_for_itself_alone():
    assert grade_of(evidence(9, 9, seeds=1)) == "scoped"


def test_a_surface_that_does_not_predict_claims_nothing_and_says_by_how_much():
    good = SurfaceCheck(n=20, held=18, squared_error=1.0, squares=10.0)
    assert unpredicted(good) == []
    (reason,) = unpredicted(SurfaceCheck(400, 360, 9.5, 10.0))
    assert (reason.kind, "explains 5 %" in reason.text) == ("prediction", True)
    (reason,) = unpredicted(SurfaceCheck(20, 14, 1.0, 10.0))
    assert "hold 14 of 20 trials" in reason.text


def test_one_trained_model_gives_no_grade_above_scoped_in_any_number_of_domains():
    assert [grade_of(evidence(groups, groups, models=1)) for groups in (1, 3, 5, 9)] == [
        "scoped"
    ] * 4


def test_thin_evidence_says_what_is_still_needed():
    assert not_traced(evidence(3, trials=20)) == []
    (reason,) = not_traced(evidence(3, trials=14))
    assert (reason.kind, reason.trials_needed) == ("trials", 6)
    assert "6 more trials" in reason.text
    (reason,) = not_traced(evidence(3, seeds=1))
    assert (reason.kind, reason.text) == ("seeds", "1 seed, 3 are needed")
    assert not_traced(evidence(3, seeds=0))[0].text == "no seed known, 3 are needed"


def test_adaptive_trials_alone_support_nothing_about_trajectories():
    """Evidence counts trials drawn from the space: none of them here."""
    adaptive = not_traced(evidence(3, trials=0, sampler="adaptive"))
    assert [reason.kind for reason in adaptive] == ["sampler", "trials"]
    assert "adaptive sampler" in adaptive[0].text
    assert "not known" in not_traced(evidence(3, trials=0, sampler="unknown"))[0].text


def test_a_guideline_that_does_worse_than_the_default_or_the_full_space_is_refused():
    assert worse_than_default(evidence(3, 3)) == []
    assert (
        "than the default (0.05)"
        in worse_than_default(evidence(3, 0, regret=0.1, default=0.05))[0].text
    )
    assert "full space (0.05)" in worse_than_default(evidence(3, 0, regret=0.1, full=0.05))[0].text


def test_methods_are_compared_from_eight_trials_of_each_on():
    assert not_comparable(evidence(3, trials=8)) == []
    (reason,) = not_comparable(evidence(3, trials=7))
    assert reason.trials_needed == 1
    assert reason.text == "7 trials drawn from the space, 8 are needed: 1 more trial"
    assert [one.kind for one in not_comparable(evidence(3, trials=0))] == ["sampler", "trials"]
