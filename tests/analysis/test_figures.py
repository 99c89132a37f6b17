"""Figures: what is drawn is what the CSV says, and nothing between the trials is made up."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from planted import demo_spec, planted_row, quick_ledger, write_trial

from ray_unlearn.analysis.figures import figure_data
from ray_unlearn.analysis.figures.catalogue import draw_all
from ray_unlearn.analysis.figures.curves import learning_rates, membership
from ray_unlearn.analysis.figures.heatmap import heatmaps
from ray_unlearn.analysis.figures.look import as_svg, inline_svg, look
from ray_unlearn.analysis.figures.tradeoff import tradeoff
from ray_unlearn.analysis.read.study_results import StudyResults, load
from ray_unlearn.spec.method_registry import METHODS


@pytest.fixture(scope="module")
def study(planted_study: Path) -> StudyResults:
    return load([planted_study]).studies[0]


def test_heatmap_draws_the_scores_of_its_table(study: StudyResults) -> None:
    data = figure_data.surface(study)
    figure = heatmaps(data, study.methods)
    meshes = [
        mesh
        for axes in figure.axes
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and mesh.get_gid()
    ]
    assert len(meshes) == len(METHODS)
    for mesh, method in zip(meshes, study.methods, strict=True):
        cells = data[data["method"] == method].sort_values(["low", "update"])
        drawn = np.ma.filled(mesh.get_array().astype(float), np.nan).ravel()
        np.testing.assert_array_equal(drawn, cells["score_reporting"].to_numpy())


def test_bands_tile_the_searched_learning_rates_and_hold_their_trial(study: StudyResults) -> None:
    data = figure_data.surface(study)
    for method, cells in data.groupby("method"):
        searched = study.spec.spaces[method].parameters["learning_rate"]
        bands = cells.drop_duplicates("number").sort_values("low")
        np.testing.assert_allclose(bands["high"].to_numpy()[:-1], bands["low"].to_numpy()[1:])
        assert (bands["low"].iloc[0], bands["high"].iloc[-1]) == pytest.approx(
            (searched.low, searched.high)
        )
        assert (
            bands["learning_rate"]
            .between(bands["low"] * (1 - 1e-9), bands["high"] * (1 + 1e-9))
            .all()
        )


def test_equal_learning_rates_share_their_band() -> None:
    edges = figure_data._bands(np.array([1e-4, 1e-3, 1e-3]), 1e-5, 1e-2)
    np.testing.assert_allclose(edges, [1e-5, 10**-3.5, 10**-2.75, 1e-2])


def test_cells_that_no_trial_reached_have_no_score(study: StudyResults) -> None:
    data = figure_data.surface(study)
    assert set(data.loc[data["score_reporting"].isna(), "drawn"]) >= {"infeasible", "out_of_memory"}
    assert (data.loc[data["score_reporting"].notna(), "drawn"] == "score").all()


def test_scatter_draws_the_rows_of_its_table(study: StudyResults) -> None:
    data = figure_data.tradeoff(study)
    figure = tradeoff(data, study.methods)
    overview = next(
        axes for axes in figure.axes if axes.get_title(loc="left").startswith("All methods")
    )
    drawn = np.concatenate(
        [
            _offsets(points)
            for points in overview.collections
            if (points.get_gid() or "").startswith("all-")
        ]
    )
    rows = data[data["kind"] == "row"]
    np.testing.assert_array_equal(drawn, rows[["forget_ppl", "utility_loss_reporting"]].to_numpy())
    assert set(data["kind"]) == {"row", "vanilla", "approximate", "exact_retrain"}


def test_learning_rate_figure_shows_every_trial_once(study: StudyResults) -> None:
    data = figure_data.rates(study)
    assert len(data) == len(study.trials)
    figure = learning_rates(data, study.methods)
    drawn = [
        point
        for axes in figure.axes
        for points in axes.collections
        if (points.get_gid() or "").startswith("trials")
        for point in _offsets(points)
    ]
    scored = data[data["score_reporting"].notna()]
    assert sorted(map(tuple, drawn)) == sorted(
        zip(scored["learning_rate"], scored["score_reporting"], strict=True)
    )
    crosses = sum(
        len(_offsets(points))
        for axes in figure.axes
        for points in axes.collections
        if (points.get_gid() or "").startswith("without-score")
    )
    assert crosses == data["score_reporting"].isna().sum()


def test_attack_curves_are_those_of_the_chosen_trials(study: StudyResults) -> None:
    data = figure_data.attacks(study)
    figure = membership(data, study.methods)
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    for method in study.methods:
        rows = data[data["method"] == method]
        assert rows["number"].nunique() == 1
        np.testing.assert_array_equal(
            curves[method].get_ydata(), rows["mia_loss_auc_reporting"].to_numpy()
        )
        assert rows["chosen"].sum() == 1


def test_search_history_never_gets_worse(study: StudyResults) -> None:
    for _, part in figure_data.history(study).groupby("method"):
        assert part["best_so_far"].dropna().is_monotonic_decreasing
        assert list(part["order"]) == list(range(1, len(part) + 1))


def test_many_points_are_rasterised_and_few_are_not(study: StudyResults) -> None:
    data = figure_data.tradeoff(study)
    assert "<image" not in as_svg(tradeoff(data, study.methods))
    many = pd.concat([data] + [data[data["kind"] == "row"]] * 80, ignore_index=True)
    assert "<image" in as_svg(tradeoff(many, study.methods))


def test_same_svg_every_time(study: StudyResults) -> None:
    first, second = (as_svg(heatmaps(figure_data.surface(study), study.methods)) for _ in range(2))
    assert first == second


def test_ids_do_not_collide_when_several_figures_share_a_page(study: StudyResults) -> None:
    svg = as_svg(heatmaps(figure_data.surface(study), study.methods))
    inline = inline_svg(svg, "a", "label")
    assert 'id="a-' in inline
    for reference in ('href="#', "url(#"):
        assert inline.count(reference) == inline.count(reference + "a-") > 0


def test_each_method_looks_different_without_colour() -> None:
    looks = [look(method, ()) for method in METHODS]
    assert (
        len({each.marker for each in looks}) == len({each.colour for each in looks}) == len(METHODS)
    )
    assert look("mine", ("mine", "yours")) != look("yours", ("mine", "yours"))


def test_one_trial_can_be_drawn(tmp_path: Path) -> None:
    import random

    spec = demo_spec(trials_per_method=1)
    with quick_ledger(tmp_path / "s", spec) as ledger:
        rows = {3: planted_row("gradient_ascent", 3e-4, 3, 1.0, random.Random(0))}
        write_trial(ledger, spec, "gradient_ascent", {"learning_rate": 3e-4}, rows)
    drawings = draw_all(load([tmp_path / "s"]).studies[0])
    assert len(drawings) == 5
    for drawing in drawings:
        assert as_svg(drawing.figure).startswith("<?xml")


def _offsets(points: PathCollection) -> np.ndarray:
    return np.asarray(np.ma.getdata(points.get_offsets()))
