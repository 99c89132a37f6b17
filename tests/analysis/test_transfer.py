"""Transfer: a claim that was tested on what it was made from has not been tested."""

import numpy as np
import pandas as pd
import pytest

from ray_unlearn.analysis.guidelines.least_favourable import least_favourable
from ray_unlearn.analysis.guidelines.leave_one_out import (
    Box,
    HeldoutGroup,
    heldout_summary,
    leave_one_out,
)


def trials(
    models: tuple[str, ...] = ("m",), domains: tuple[str, ...] = ("x", "y", "z")
) -> pd.DataFrame:
    """Ten trials of each domain on each model; the score is the distance of the learning rate from
    3."""
    rates = np.arange(1.0, 11.0)
    return pd.concat(
        [
            pd.DataFrame({"learning_rate": rates, "score": np.abs(rates - 3)}).assign(
                domain=domain, model=model, group=f"{domain} ({model})", infeasible=False
            )
            for domain in domains
            for model in models
        ],
        ignore_index=True,
    )


def test_regrets_by_hand() -> None:
    """Inside [2, 4] the scores are 1, 0, 1; outside as well they are 0, 1, 1, 2, 2, 3, 4, 5, 6,
    7."""
    (first, *_) = leave_one_out(
        trials(), lambda groups: {"learning_rate": (2.0, 4.0)}, lambda group: 2.5, 2, {}
    )
    assert (first.group, first.n_inside, first.n_trials, first.inside_trials) == ("x", 3, 10, 2)
    assert first.regret == pytest.approx(1 / 3), (
        "the best of two of 0, 1, 1 is 1 in one of three pairs"
    )
    full = [0, 1, 1, 2, 2, 3, 4, 5, 6, 7]
    pairs = [min(a, b) for i, a in enumerate(full) for b in full[i + 1 :]]
    assert first.regret_full_space == pytest.approx(np.mean(pairs))
    assert first.regret_default == 2.5
    assert first.matches == 7, (
        "P(best of k is the 0) = k/10, else 1 until three are left: the mean is 1/3 or less from "
        "k = 7 on"
    )


def test_a_domain_is_left_out_on_all_models_at_once() -> None:
    """Six pairs of three domains and two models are three tests, not six: one model tells of a
    domain on the other."""
    asked: list[tuple[str, ...]] = []

    def derive(groups: tuple[str, ...]) -> Box:
        asked.append(groups)
        return {"learning_rate": (2.0, 4.0)}

    found = leave_one_out(trials(models=("m", "n")), derive, lambda group: 2.5, 2, {})
    assert [one.group for one in found] == ["x", "y", "z"]
    assert asked[0] == ("y (m)", "y (n)", "z (m)", "z (n)")
    assert (found[0].n_inside, found[0].n_trials) == (6, 20)
    heldout = heldout_summary(found)
    assert heldout is not None
    assert (heldout.groups, heldout.better) == (("x", "y", "z"), 3)


def test_more_models_than_domains_are_left_out_instead() -> None:
    found = leave_one_out(
        trials(models=("m", "n", "o"), domains=("x",)),
        lambda groups: {"learning_rate": (2.0, 4.0)},
        lambda group: 2.5,
        2,
        {},
    )
    assert [one.group for one in found] == ["m", "n", "o"]


def test_nothing_is_said_where_nothing_can_be_left_out_or_too_little_lies_inside() -> None:
    assert (
        leave_one_out(
            trials(domains=("x",)),
            lambda groups: {"learning_rate": (2.0, 4.0)},
            lambda group: 2.5,
            2,
            {},
        )
        == ()
    )
    assert (
        leave_one_out(
            trials(), lambda groups: {"learning_rate": (2.0, 2.5)}, lambda group: 2.5, 2, {}
        )
        == ()
    )
    assert leave_one_out(trials(), lambda groups: None, lambda group: 2.5, 2, {}) == ()
    assert heldout_summary(()) is None


def test_a_table_without_doing_nothing_claims_no_more_than_one_with_it() -> None:
    """Inside every trial scores 0.3; outside half score 0 and half 10. Two trials of the full space
    do worse where 10 counts as 10, and better where doing nothing scores 0.5."""
    scores = np.array([0.3] * 3 + [0.0] * 5 + [10.0] * 5)
    frame = pd.concat(
        [
            pd.DataFrame({"learning_rate": np.arange(1.0, 14.0), "score": scores}).assign(
                domain=domain, model="m", group=domain, infeasible=False
            )
            for domain in ("x", "y", "z")
        ],
        ignore_index=True,
    )

    def held(nothing: dict[str, float]) -> tuple[HeldoutGroup, ...]:
        found = leave_one_out(
            frame, lambda groups: {"learning_rate": (1.0, 3.0)}, lambda group: 9.0, 2, nothing
        )
        return least_favourable(found, frame, lambda group: 9.0, 2, nothing)

    known = held(dict.fromkeys("xyz", 0.5))
    assert all(one.regret > one.regret_full_space for one in known)
    for one in held({}):
        assert one.regret > one.regret_full_space
    everywhere_good = frame.assign(score=np.where(frame["learning_rate"] < 4, 0.0, 10.0))
    (first, *_) = leave_one_out(
        everywhere_good, lambda groups: {"learning_rate": (1.0, 3.0)}, lambda group: 9.0, 2, {}
    )
    assert least_favourable([first], everywhere_good, lambda group: 9.0, 2, {}) == (first,)
