"""A study whose rows are screened, run and read as a user would."""

import html
from pathlib import Path

import pytest
from tiny import study_file

import ray_unlearn as ru
from ray_unlearn.store.study_columns import MEASURED_SHARE
from ray_unlearn.store.verify import verify


@pytest.fixture(scope="module")
def screened(
    ray_here: None, text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> ru.Study:
    """Four trials in one lane."""
    folder = tmp_path_factory.mktemp("screened")
    file = study_file(
        folder,
        text_files,
        tiny_model,
        methods=["gradient_ascent"],
        search={"sampler": "qmc", "trials_per_method": 4},
        evaluation={"at": [1, 2, 4], "batch_size": 8, "screen": 0.5},
        operations={"lanes": 1},
    )
    return ru.run(file, folder / "study")


def test_the_winner_is_measured_in_full_and_most_others_in_part(screened: ru.Study) -> None:
    rows = screened.rows.sort_values(["number", "update"])
    shares = rows[MEASURED_SHARE]
    assert set(shares) == {0.5, 1.0}
    assert (shares[rows["number"] == 0] == 1.0).all(), "there was nothing to compare with"
    won = rows.loc[rows["score_selection"].idxmin()]
    assert won[MEASURED_SHARE] == 1.0
    # What was measured in part is above the best of the trials before.
    for line in rows[shares < 1].itertuples():
        before = rows.loc[rows["number"] < line.number, "score_selection"]
        assert line.score_selection > before.min()


def test_it_is_a_study_like_any_other(screened: ru.Study, tmp_path: Path) -> None:
    assert not verify(Path(screened.location)).problems
    ru.report(screened, out=tmp_path / "report")
    rows = screened.rows
    part = (rows[MEASURED_SHARE] < 1).sum()
    said = f"{part} of {len(rows)} evaluations of tiny were measured on 50% of the approximate"
    pages = list((tmp_path / "report").glob("report.*"))
    assert pages
    assert all(said in " ".join(html.unescape(page.read_text()).split()) for page in pages)
