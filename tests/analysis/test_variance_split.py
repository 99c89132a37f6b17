"""Which source moves the score decides what a user repeats: another model, seed or domain."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import surfaces

from ray_unlearn.analysis.report.page import Paragraph, Table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.report.variance_section import NOTHING, variance_section
from ray_unlearn.analysis.statistics.variance_split import components, variance_split

SOURCES = ("domain", "model", "configuration", "left", "seed")


def planted(
    sds: dict[str, float],
    *,
    domains: int = 3,
    models: int = 3,
    configurations: int = 12,
    seeds: int = 3,
    tails: int | None = None,
    random_seed: int = 0,
) -> pd.DataFrame:
    """Scores with effects of known standard deviations, every configuration in every group with
    every seed.

    `tails`: configurations, rest and seeds are Student's t with so many degrees of freedom; None:
    normal, as all others.
    """
    rng = np.random.default_rng(random_seed)
    d, m, c, s = (part.ravel() for part in np.indices((domains, models, configurations, seeds)))
    group = d * models + m
    levels = {
        "domain": d,
        "model": group,
        "configuration": c,
        "left": group * configurations + c,
        "seed": np.arange(d.size),
    }
    score = np.zeros(d.size)
    for source, own in levels.items():
        effects = rng.standard_normal(own.max() + 1)
        if tails is not None and source not in ("domain", "model"):
            effects *= np.sqrt((tails - 2) / rng.chisquare(tails, own.max() + 1))
        score += sds.get(source, 0.0) * effects[own]
    return pd.DataFrame(
        {
            "domain": [f"d{i}" for i in d],
            "model": [f"d{i}#{j}" for i, j in zip(d, m, strict=True)],
            "group": [f"d{i} (d{i}#{j})" for i, j in zip(d, m, strict=True)],
            "learning_rate": 10.0 ** -(c + 1.0),
            "seed": s.astype(float),
            "score": score,
        }
    )


def split(trials: pd.DataFrame, nothing: dict[str, float] | None = None):
    limits = dict.fromkeys(trials["group"], 100.0) if nothing is None else nothing
    return variance_split(trials, ("learning_rate",), limits)


def test_one_way_balanced_is_the_textbooks_analysis_of_variance():
    """Searle, Casella and McCulloch, ch. 3: (MSA - MSE) / n and MSE."""
    rng = np.random.default_rng(1)
    groups, n = 6, 5
    codes = np.repeat(np.arange(groups), n)
    scores = rng.standard_normal(groups)[codes] + 0.3 * rng.standard_normal(groups * n)
    table = scores.reshape(groups, n)
    within = float(table.var(axis=1, ddof=1).mean())
    between = float(n * table.mean(axis=1).var(ddof=1))
    found = components(scores, {"a": codes})
    assert found["a"].sd ** 2 == pytest.approx((between - within) / n)
    assert found[""].sd ** 2 == pytest.approx(within)
    assert found["a"].share + found[""].share == pytest.approx(1.0)


def test_planted_components_are_found_also_where_the_table_has_holes():
    sds = {"domain": 0.5, "model": 0.3, "configuration": 0.4, "left": 0.2, "seed": 0.1}
    many = planted(sds, domains=25, models=4, configurations=40, seeds=2)
    holes = many.sample(frac=0.6, random_state=0)
    for trials in (many, holes):
        found = split(trials)
        for source in SOURCES:
            assert getattr(found, source).sd == pytest.approx(sds[source], rel=0.3), source


def test_intervals_hold_the_planted_standard_deviations():
    """90 % over many repeats in benchmarks/variance_split.py."""
    sds = {"domain": 0.2, "model": 0.1, "configuration": 0.3, "left": 0.1, "seed": 0.05}
    held = [
        one.low <= sds[source] <= one.high
        for i in range(10)
        for found in [split(planted(sds, configurations=8, seeds=2, random_seed=i))]
        for source in SOURCES
        if (one := getattr(found, source)) is not None
    ]
    assert len(held) == 50
    assert sum(held) >= 40


def test_a_source_that_does_nothing_may_be_nothing():
    found = split(planted({"configuration": 0.3, "seed": 0.1}, models=2))
    assert found.domain.low == found.model.low == found.left.low == 0.0
    assert found.configuration.share > 0.8


@pytest.mark.parametrize(
    ("sizes", "unknown"),
    [
        ({"domains": 1}, {"domain"}),
        ({"models": 1}, {"model"}),
        ({"seeds": 1}, {"seed"}),
        ({"domains": 1, "models": 1}, {"domain", "model", "left"}),
        ({"configurations": 1}, {"configuration", "seed"}),
    ],
)
def test_a_level_with_one_value_is_not_known(sizes, unknown):
    sds = {"domain": 0.2, "model": 0.1, "configuration": 0.3, "left": 0.1, "seed": 0.05}
    found = split(planted(sds, **sizes))
    assert {source for source in SOURCES if getattr(found, source) is None} == unknown


def test_nothing_is_split_where_every_run_differs_in_all_or_there_are_too_few():
    sds = {"configuration": 0.3, "seed": 0.1}
    assert split(planted(sds, domains=1, models=1, seeds=1, configurations=30)) is None
    assert split(planted(sds, domains=2, models=1, seeds=1, configurations=3)) is None


def test_the_same_run_in_two_tables_is_no_second_seed():
    """Copies would say that seeds do not matter."""
    once = planted({"domain": 0.3, "configuration": 0.3, "seed": 0.2}, models=1, seeds=1)
    assert split(pd.concat([once, once], ignore_index=True)) == split(once)


def test_ruined_runs_count_as_doing_nothing():
    trials = planted({"domain": 0.1, "configuration": 0.3, "seed": 0.05})
    worse = trials.copy()
    worse.loc[::7, "score"] = np.nan
    huge = trials.copy()
    huge.loc[::7, "score"] = 1e9
    nothing = dict.fromkeys(trials["group"], 1.0)
    assert split(worse, nothing) == split(huge, nothing)
    assert split(huge, nothing).configuration.sd < 1.0
    assert split(huge, {}).configuration.sd < 3.0


def test_the_page_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    out = ReportFolder(tmp_path)
    several = surfaces.planted(
        {"a": surfaces.valley()},
        trials=40,
        groups=("books", "code"),
        models=lambda domain: (f"{domain}#1", f"{domain}#2"),
    )
    table = next(b for b in variance_section(several, out, 0).blocks if isinstance(b, Table))
    (line,) = table.lines
    assert line[:2] == ("`a`", "80")
    assert [cell == "not known" for cell in line[2:]] == [False, False, True, True, False]
    written = pd.read_csv(tmp_path / "data" / "variance_split.csv")
    assert list(written["source"]) == ["domain", "model", "left"]
    assert written["share"].sum() == pytest.approx(1.0, abs=1e-4)
    one = surfaces.planted({"a": surfaces.valley()}, trials=40)
    assert variance_section(one, out, 0).blocks == (Paragraph(NOTHING),)
