"""`diff` must not call noise a change, nor a change noise: an edge has moved only where its
intervals do not meet."""

import pytest

from ray_unlearn.analysis.guidelines.guideline_diff import compare
from ray_unlearn.spec.guideline_file import (
    ClaimedRegion,
    Evidence,
    Guideline,
    Guidelines,
    Scope,
    ScoreInfo,
)

SCORE = ScoreInfo(
    name="score",
    direction="minimize",
    tolerance=0.1,
    tolerance_source="given",
    checkpoint_rule="the last step",
)


def range_of(low, high, low_90=None, high_90=None, *, low_censored=False, grade="C", claimed=True):
    return Guideline(
        id="range/m/learning_rate",
        kind="range",
        status="claimed" if claimed else "withheld",
        withheld_because=() if claimed else ({"kind": "seeds", "text": "2 seeds, 3 are needed"},),
        grade=grade if claimed else None,
        scope=Scope(method="m"),
        param="learning_rate",
        search_space=ClaimedRegion(type="float", low=low, high=high, log=True) if claimed else None,
        low_is_boundary=low_censored,
        estimates={"low_edge_90": low_90, "high_edge_90": high_90},
        evidence=Evidence(n_trials=100, n_groups=3, n_seeds=3),
    )


def changes(old, new):
    def file(guideline):
        return Guidelines(provenance={}, score=SCORE, guidelines=(guideline,) if guideline else ())

    return [difference.change for difference in compare(file(old), file(new))]


WIDE = range_of(1e-5, 1e-3, [8e-6, 2e-5], [8e-4, 1.2e-3])


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (range_of(1.2e-5, 9e-4, [9e-6, 1.8e-5], [7e-4, 1.1e-3]), "unchanged"),
        (range_of(5e-5, 5e-4, [4e-5, 6e-5], [4e-4, 6e-4]), "tightened"),
        (range_of(1e-6, 1e-2, [8e-7, 2e-6], [8e-3, 2e-2]), "widened"),
        (range_of(5e-5, 5e-3, [4e-5, 6e-5], [4e-3, 6e-3]), "moved"),
        (range_of(2e-3, 1e-2, [1.5e-3, 3e-3], [8e-3, 2e-2]), "contradicted"),
        (range_of(1e-5, 1e-3, claimed=False), "withdrawn"),
        (range_of(1e-5, 1e-3, [8e-6, 2e-5], [8e-4, 1.2e-3], grade="B"), "regraded"),
    ],
)
def test_a_range_against_an_older_one(new, change):
    assert changes(WIDE, new) == [change]


def test_a_range_where_all_values_were_to_be_left_alone_is_a_contradiction():
    content = WIDE.model_dump() | {"status": "leave_alone", "grade": None, "probability": 0.97}
    alone = Guideline.model_validate(content | {"search_space": None})
    assert changes(alone, WIDE) == changes(WIDE, alone) == ["contradicted"]
    assert changes(alone, alone) == ["unchanged"]
    assert changes(None, alone) == ["new"]
    likely = content | {"status": "likely", "withheld_because": ({"kind": "seeds", "text": "1"},)}
    assert changes(WIDE, Guideline.model_validate(likely)) == ["withdrawn"]


def test_a_claim_that_was_not_there_is_new_and_one_withheld_twice_is_no_news():
    assert changes(None, WIDE) == ["new"]
    assert changes(range_of(1e-5, 1e-3, claimed=False), WIDE) == ["new"]
    assert changes(range_of(1e-5, 1e-3, claimed=False), range_of(1e-5, 1e-3, claimed=False)) == []


def test_a_censored_edge_lies_below_every_finite_one():
    censored = range_of(1e-6, 1e-3, None, [8e-4, 1.2e-3], low_censored=True)
    assert changes(censored, range_of(5e-5, 1e-3, [4e-5, 6e-5], [8e-4, 1.2e-3])) == ["tightened"]
    assert changes(censored, censored) == ["unchanged"]


def test_a_file_with_the_kinds_of_older_programs_can_still_be_compared():
    """`point` was a range of one value, `leave_default` a start without a range."""
    content = WIDE.model_dump(mode="json")
    assert changes(Guideline.model_validate(content | {"kind": "point"}), WIDE) == ["unchanged"]
    start = content | {"kind": "leave_default", "search_space": None, "warm_start": 1e-4}
    former = Guideline.model_validate(start)
    assert former.kind == "range"
    assert changes(former, former) == ["unchanged"]
    assert changes(former, WIDE) == ["moved"]


def test_a_comparison_that_comes_out_the_other_way_is_contradicted():
    def comparison(difference):
        return Guideline(
            id="method_choice/a",
            kind="method_choice",
            status="claimed",
            grade="C",
            scope=Scope(),
            estimates={"difference": difference},
            evidence=Evidence(n_trials=10, n_groups=3, n_seeds=3),
        )

    assert changes(comparison(-0.2), comparison(0.1)) == ["contradicted"]
    assert changes(comparison(-0.2), comparison(-0.1)) == ["unchanged"]
