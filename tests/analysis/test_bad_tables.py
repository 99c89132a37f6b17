"""Odd tables through the whole report: a clear error, or a valid page that withholds; never a traceback, never a claim."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ray_unlearn.analysis.report import write_report
from ray_unlearn.spec.errors import UserError


def lines(count: int, score: str = "0.5", **columns: str) -> str:
    """A CSV of `count` trials with a random learning rate."""
    rates = 10 ** np.random.default_rng(0).uniform(-6, -3, count)
    head = ",".join(["trial", "lr", "score", *columns])
    return "\n".join(
        [head, *(",".join([str(i), f"{rate:.3g}", score, *columns.values()]) for i, rate in enumerate(rates))]
    )


def report_of(text: str, folder: Path) -> tuple[str, dict]:
    table = folder / "table.csv"
    table.write_text(text + "\n")
    page = write_report(
        [table], folder / "out", sampler="random", mapping={"lr": "learning_rate"} if "lr" in text else None
    )
    return page.read_text(), json.loads((folder / "out" / "guidelines.json").read_text())


@pytest.mark.parametrize(
    "text",
    [
        lines(1),
        lines(2),
        lines(120),
        lines(40, score="inf"),
        lines(40).replace(",0.5", ",nan", 20),
        lines(40).replace(",0.5", ",", 20),
        lines(40, method="<b>bold</b> & co", domain='"><script>alert(1)</script>'.replace(",", "").replace('"', "")),
        "trial,score\n" + "\n".join(f"{i},{i / 10}" for i in range(30)),
    ],
    ids=["one trial", "two trials", "constant score", "all infinite", "half nan", "half empty", "markup", "no hyperparameter"],
)  # fmt: skip
def test_a_valid_page_that_claims_nothing(text: str, tmp_path: Path) -> None:
    page, guidelines = report_of(text, tmp_path)
    assert [g["id"] for g in guidelines["guidelines"] if g["status"] == "claimed"] == []
    assert "</html>" in page
    assert "<script>" not in page
    assert "<b>bold" not in page
    assert not re.search(r">\s*nan\s*<", page)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr,score\n1e-5,0.5", "trial"),
        ("trial,lr\n0,1e-5", "score"),
        ("trial,lr,score", "holds no|empty|no trial"),
        ("trial,lr,score,step\n0,1e-5,0.5,1\n0,1e-5,0.6,1", "trial"),
        ("trial,lr,score\n0,1e-5,good\n1,1e-5,0.1", "good"),
        ("trial,lr,score\n0,1e-5,0.5\n0,2e-5,0.5", "1e-05|2e-05|learning_rate"),
    ],
    ids=["no trial column", "no score column", "no rows", "two scores at one step", "a word for a score", "two values in a trial"],
)  # fmt: skip
def test_an_error_that_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        report_of(text, tmp_path)
    assert "table.csv" in str(error.value)
    assert not (tmp_path / "out").exists(), "nothing is written before the input is known to be good"
