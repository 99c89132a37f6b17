"""The evidence on strength: what it counts as a trial's two scores, and planted spreads."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from strength_evidence import KINDS, bests, recovered, spreads, two_scores

TARGET = 4.0


def rows(number: int, *lines: tuple[int, float, float, float], **trial: object) -> pd.DataFrame:
    """Update, strength, forget NLL, score of each row."""
    frame = pd.DataFrame(lines, columns=["update", "strength", "forget_nll", "score_selection"])
    about = {"number": number, "method": "gradient_ascent", "learning_rate": 1e-3}
    frame = frame.assign(**(about | {"status": "complete"} | trial))
    frame["score_reporting"] = frame["score_selection"] + 1
    return frame.assign(mia_loss_auc_reporting=0.6, utility_loss_reporting=0.1)


def test_each_trial_has_the_score_that_its_selection_half_chose_either_way() -> None:
    table = pd.concat(
        [
            rows(0, (8, 1.0, 3.0, 0.9), (16, 1.0, 5.0, 0.5), (16, 0.7, 4.001, 0.2)),
            rows(1, (8, 1.0, 2.5, 0.8), (16, 1.0, 2.7, 0.7)),  # no strength reaches the target
            rows(2, (8, 1.0, 4.003, 0.3)),  # on the target as trained
            rows(3, (8, 1.0, 9.0, 0.6), status="diverged"),
            rows(4, (8, 1.0, 9.0, 0.1), status="running"),
        ]
    )
    found = two_scores(table, TARGET).set_index("number")
    assert list(found.index) == [0, 1, 2, 3]
    assert list(found["trained"]) == [1.5, 1.7, 1.3, math.inf]
    assert list(found["target"].fillna(-1)) == [1.2, -1, 1.3, math.inf]
    assert list(found["both"]) == [1.2, 1.7, 1.3, math.inf]
    assert list(found["strength"][:3].fillna(-1)) == [0.7, -1, 1.0]


def planted(worlds: int, slope: float, seed: int = 0) -> pd.DataFrame:
    """Trials that lose `slope` per decade of the learning rate as trained alone."""
    draws = np.random.default_rng(seed)
    count = 24 * worlds
    decades = np.tile(np.linspace(-0.3, 1.0, 24), worlds)
    target = 0.3 + np.repeat(np.arange(worlds), 24) + 0.01 * draws.standard_normal(count)
    trained = target + slope * np.abs(decades)
    return pd.DataFrame(
        {"method": "gradient_ascent", "learning_rate": 2e-4 * 10**decades, "strength": 0.5}
        | {"trained": trained, "target": target, "both": np.minimum(trained, target)}
        | {"world": np.repeat([f"world {i}" for i in range(worlds)], 24)}
    )


def test_a_planted_spread_is_found_and_its_absence_too() -> None:
    """Two thirds of a decade lie between the middles of the first and the last third."""
    (line,) = spreads(planted(worlds=3, slope=2.0))
    value, low, high = line["trained"]
    assert low <= 4 / 3 <= high
    assert value == pytest.approx(4 / 3, abs=0.1)
    assert line["target"][2] < 0.05
    assert line["saved"][1] > 1.0
    assert line["out_of_reach"] == 0


def test_more_than_half_diverged_in_a_third_is_an_infinite_spread() -> None:
    trials = planted(worlds=1, slope=0.0)
    high = trials["learning_rate"] > 1.2e-3
    trials.loc[high, list(KINDS)] = math.inf
    (line,) = spreads(trials)
    assert line["trained"][0] == math.inf


def test_extrapolated_rows_stand_apart_from_mixed_ones() -> None:
    table = rows(0, (8, 1.0, 5.0, 0.5), (8, 0.7, 4.0, 0.3), (16, 1.4, 4.0, 0.2))
    (line,) = bests(table.assign(world="one"))
    assert line["trained_score"] == 1.5
    assert line["equal_score"] == line["equal_extrapolated_score"] == 1.2
    assert line["equal_interpolated_score"] == 1.3
    assert line["strength"] == 1.4


def test_what_relearning_takes_back_is_a_fraction_of_the_rise_above_vanilla() -> None:
    vanilla = {"world": "a", "method": "vanilla", "relearning": {"0": 3.0, "5": 3.0, "20": 3.1}}
    forgot = {"world": "a", "method": "x", "relearning": {"0": 4.0, "5": 3.9, "20": 3.75}}
    first, second = recovered([vanilla, forgot])
    assert math.isnan(first["recovered"]), "there is nothing to take back"
    assert second["recovered"] == pytest.approx(0.25)
