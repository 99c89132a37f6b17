"""Figures: what is drawn is what the CSV says, and nothing between the trials is made up."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from planted import demo_spec, plant, planted_row, quick_ledger, write_trial

from ray_unlearn.analysis import figures
from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.heatmap import (
    heatmap_data,
    heatmap_figure,
    learning_rate_bands,
)
from ray_unlearn.analysis.figures.learning_rates import learning_rate_figure
from ray_unlearn.analysis.figures.look import as_svg, inline_svg, method_look
from ray_unlearn.analysis.figures.membership_inference import membership_figure
from ray_unlearn.analysis.figures.panels import log_view
from ray_unlearn.analysis.figures.search_history import search_history_data
from ray_unlearn.analysis.figures.tradeoff import tradeoff_figure
from ray_unlearn.analysis.read.study_results import StudyResults, load
from ray_unlearn.analysis.report.report_files import drawn
from ray_unlearn.analysis.report.study_sections import study_figures
from ray_unlearn.spec.method_registry import METHODS, PUBLISHED


@pytest.fixture(scope="module")
def study(planted_study: Path) -> StudyResults:
    return load([planted_study]).studies[0]


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Two methods, two trials each."""
    spec = demo_spec(trials_per_method=2).model_copy(update={"methods": tuple(METHODS)[:2]})
    return load([plant(tmp_path_factory.mktemp("small"), trials=2, spec=spec)]).studies[0]


@pytest.fixture(scope="module")
def heatmap(study: StudyResults) -> Drawing:
    drawing = heatmap_figure(study)
    assert drawing is not None
    return drawing


@pytest.fixture(scope="module")
def heatmap_drawn(heatmap: Drawing) -> tuple[Figure, str]:
    figure = heatmap.figure()
    return figure, as_svg(figure)


def test_heatmap_draws_the_scores_of_its_table(
    study: StudyResults, heatmap: Drawing, heatmap_drawn: tuple[Figure, str]
) -> None:
    meshes = [
        mesh
        for axes in heatmap_drawn[0].axes
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and mesh.get_gid()
    ]
    assert len(meshes) == len(study.methods)
    for mesh, method in zip(meshes, study.methods, strict=True):
        cells = heatmap.data[heatmap.data["method"] == method].sort_values(["low", "update"])
        shown = np.ma.filled(mesh.get_array().astype(float), np.nan).ravel()
        np.testing.assert_array_equal(shown, cells["score_reporting"].to_numpy())


def test_bands_tile_the_searched_learning_rates_and_hold_their_trial(study: StudyResults) -> None:
    assert study.spec is not None
    for method, cells in heatmap_data(study).groupby("method"):
        searched = study.spec.spaces[str(method)].parameters["learning_rate"]
        bands = cells.drop_duplicates("number").sort_values("low")
        np.testing.assert_allclose(bands["high"].to_numpy()[:-1], bands["low"].to_numpy()[1:])
        ends = bands["low"].iloc[0], bands["high"].iloc[-1]
        assert ends == pytest.approx((searched.low, searched.high))
        low, high = bands["low"] * (1 - 1e-9), bands["high"] * (1 + 1e-9)
        assert bands["learning_rate"].between(low, high).all()


def test_equal_learning_rates_share_their_band() -> None:
    edges = learning_rate_bands(np.array([1e-4, 1e-3, 1e-3]), 1e-5, 1e-2)
    np.testing.assert_allclose(edges, [1e-5, 10**-3.5, 10**-2.75, 1e-2])


def test_cells_that_no_trial_reached_have_no_score(heatmap: Drawing) -> None:
    data = heatmap.data
    assert set(data.loc[data["score_reporting"].isna(), "drawn"]) >= {"diverged", "out_of_memory"}
    assert (data.loc[data["score_reporting"].notna(), "drawn"] == "score").all()


def test_scatter_draws_the_rows_of_its_table(study: StudyResults) -> None:
    drawing = tradeoff_figure(study)
    assert drawing is not None
    overview = next(
        axes
        for axes in drawing.figure().axes
        if axes.get_title(loc="left").startswith("All methods")
    )
    shown = _points(overview.collections, "all-")
    rows = drawing.data[drawing.data["kind"] == "row"]
    assert sorted(map(tuple, shown)) == sorted(
        zip(rows["forget_ppl"], rows["utility_loss_reporting"], strict=True)
    )
    kinds = {"row", "vanilla", "approximate", "exact_retrain"}
    assert set(drawing.data["kind"]) == kinds


def test_every_trial_is_a_point_or_a_cross(study: StudyResults) -> None:
    drawing = learning_rate_figure(study)
    assert drawing is not None
    data, panels = drawing.data, drawing.figure().axes
    assert len(data) == len(study.trials)
    shown = [point for panel in panels for point in _points(panel.collections, "trials")]
    scored = data[data["score_reporting"].notna()]
    assert sorted(map(tuple, shown)) == sorted(
        zip(scored["learning_rate"], scored["score_reporting"], strict=True)
    )
    crosses = sum(len(_points(panel.collections, "without-score")) for panel in panels)
    assert crosses == data["score_reporting"].isna().sum()


def test_attack_curves_are_those_of_the_chosen_trials(study: StudyResults) -> None:
    drawing = membership_figure(study)
    assert drawing is not None
    curves = {line.get_label(): line for line in drawing.figure().axes[0].lines}
    for method in study.methods:
        rows = drawing.data[drawing.data["method"] == method]
        assert rows["number"].nunique() == 1
        np.testing.assert_array_equal(
            curves[method].get_ydata(), rows["mia_loss_auc_reporting"].to_numpy()
        )
        assert rows["chosen"].sum() == 1


def test_search_history_never_gets_worse(study: StudyResults) -> None:
    for _, part in search_history_data(study).groupby("method"):
        assert part["best_so_far"].dropna().is_monotonic_decreasing
        assert list(part["order"]) == list(range(1, len(part) + 1))


def test_many_points_are_rasterised_and_few_are_not(study: StudyResults) -> None:
    copies = [study.rows.assign(number=study.rows["number"] + 1000 * i) for i in range(8)]
    many = tradeoff_figure(dataclasses.replace(study, rows=pd.concat(copies, ignore_index=True)))
    few = tradeoff_figure(study)
    assert many is not None
    assert few is not None
    assert "<image" not in as_svg(few.figure())
    assert "<image" in as_svg(many.figure())


def test_same_svg_every_time(heatmap: Drawing, heatmap_drawn: tuple[Figure, str]) -> None:
    assert as_svg(heatmap.figure()) == heatmap_drawn[1]


def test_ids_do_not_collide_when_several_figures_share_a_page(
    heatmap_drawn: tuple[Figure, str],
) -> None:
    inline = inline_svg(heatmap_drawn[1], "a", "label")
    assert 'id="a-' in inline
    for reference in ('href="#', "url(#"):
        assert inline.count(reference) == inline.count(reference + "a-") > 0


def test_each_method_looks_different_without_colour() -> None:
    looks = [method_look(method, ()) for method in METHODS]
    published = looks[: len(PUBLISHED)]
    assert len({each.marker for each in published}) == len(PUBLISHED)
    assert len({each.colour for each in published}) == len(PUBLISHED)
    assert len({(each.colour, each.marker) for each in looks}) == len(METHODS)
    names = ("mine", "yours")
    assert method_look("mine", names) != method_look("yours", names)


def test_one_trial_can_be_drawn(tmp_path: Path) -> None:
    import random

    spec = demo_spec(trials_per_method=1)
    with quick_ledger(tmp_path / "s", spec) as ledger:
        rows = {3: planted_row("gradient_ascent", 3e-4, 3, 1.0, random.Random(0))}
        write_trial(ledger, spec, "gradient_ascent", {"learning_rate": 3e-4}, rows)
    for make in study_figures(load([tmp_path / "s"]).studies[0]).values():
        drawing = make()
        assert drawing is not None
        assert drawn(drawing)[0].startswith("<?xml")


def test_a_figure_is_drawn_by_the_module_that_its_file_is_named_after(study: StudyResults) -> None:
    modules = {path.stem for path in Path(figures.__file__).parent.glob("*.py")}
    drawings = [make() for make in study_figures(study).values()]
    assert {drawing.name for drawing in drawings if drawing is not None} <= modules


def with_extremes(study: StudyResults, values: tuple[float, ...]) -> StudyResults:
    """The study with these numbers, in turn, as scores, losses and perplexities of its rows."""
    rows = study.rows.copy()
    for shift, name in enumerate(
        ("score_selection", "score_reporting", "utility_loss_reporting", "forget_ppl", "forget_nll")
    ):
        found = np.flatnonzero(rows[name].notna())[shift::3]
        rows.loc[found, name] = np.resize(values, len(found))
    return dataclasses.replace(study, rows=rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        (1.7e308, 1e304, 1e-304, 5e-324, math.inf, math.nan, 0.0),
        (math.inf, math.nan),
    ],
    ids=str,
)
def test_extreme_numbers_can_be_drawn(small_study: StudyResults, values: tuple[float, ...]) -> None:
    for make in study_figures(with_extremes(small_study, values)).values():
        drawing = make()
        if drawing is not None:
            as_svg(drawing.figure())


def test_a_view_shows_seven_decades_of_scores_and_counts_the_rest(study: StudyResults) -> None:
    assert log_view([0.1, 2.0, math.nan], 1e-4) == (0.1, 2.0)
    assert log_view([0.1, 1e304], 1e-4) == (0.1, pytest.approx(1e6))
    assert log_view([math.inf], 1e-4) == (1e-4, 1e-3)
    worst = study.rows[study.rows["candidate"]].index[0]
    rows = study.rows.copy()
    own = (rows["number"] == rows["number"][worst]) & rows["update"].notna()
    rows.loc[own, ["score_selection", "score_reporting"]] = 1e304
    drawing = learning_rate_figure(dataclasses.replace(study, rows=rows))
    assert drawing is not None
    notes = [text.get_text() for panel in drawing.figure().axes for text in panel.texts]
    assert len(notes) == 1
    assert notes[0].startswith("1 of 6 trials beyond")


def _points(collections: object, name: str) -> np.ndarray:
    found = [
        np.asarray(np.ma.getdata(points.get_offsets()))
        for points in collections  # type: ignore[attr-defined]
        if isinstance(points, PathCollection) and (points.get_gid() or "").startswith(name)
    ]
    return np.concatenate([np.empty((0, 2)), *found])
