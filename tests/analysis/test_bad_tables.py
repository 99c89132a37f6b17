"""Odd tables through the whole report: a clear error, or a valid page that withholds; never a
traceback, never a claim."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from surfaces import RATE, planted, valley

from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.derive import derive_guidelines, trials_as_given
from ray_unlearn.analysis.report.write import write_report
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.spec.errors import UserError


def lines(count: int, score: str = "0.5", **columns: str) -> str:
    """A CSV of `count` trials with a random learning rate."""
    rates = 10 ** np.random.default_rng(0).uniform(-6, -3, count)
    head = ",".join(["trial", "lr", "score", *columns])
    return "\n".join(
        [
            head,
            *(
                ",".join([str(i), f"{rate:.3g}", score, *columns.values()])
                for i, rate in enumerate(rates)
            ),
        ]
    )


def report_of(text: str, folder: Path) -> tuple[str, dict]:
    table = folder / "table.csv"
    table.write_text(text + "\n")
    page = write_report(
        [table],
        folder / "out",
        sampler="random",
        mapping={"lr": "learning_rate"} if "lr" in text else None,
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
        lines(
            40,
            method="<b>bold</b> & co",
            domain='"><script>alert(1)</script>'.replace(",", "").replace('"', ""),
        ),
        "trial,score\n" + "\n".join(f"{i},{i / 10}" for i in range(30)),
    ],
    ids=[
        "one trial",
        "two trials",
        "constant score",
        "all infinite",
        "half nan",
        "half empty",
        "markup",
        "no hyperparameter",
    ],
)
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
        ("trial,lr\n0,1e-5", "score"),
        ("trial,lr,score", "holds no|empty|no trial"),
        ("trial,lr,score,step\n0,1e-5,0.5,1\n0,1e-5,0.6,1", "trial"),
        ("trial,lr,score\n0,1e-5,good\n1,1e-5,0.1", "good"),
        ("trial,lr,score\n0,1e-5,0.5\n0,2e-5,0.5", "1e-05|2e-05|learning_rate"),
    ],
    ids=[
        "no score column",
        "no rows",
        "two scores at one step",
        "a word for a score",
        "two values in a trial",
    ],
)
def test_an_error_that_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        report_of(text, tmp_path)
    assert "table.csv" in str(error.value)
    assert not (tmp_path / "out").exists(), (
        "nothing is written before the input is known to be good"
    )


def test_a_score_that_is_maximised_keeps_its_sign_for_people(tmp_path: Path) -> None:
    """The same table as a loss and as an accuracy of 1 - loss: the same claims, and no accuracy
    with a minus."""
    losses = planted(
        {"a": valley(), "b": lambda logs, rng: valley()(logs, rng) + 0.3},
        trials=40,
        groups=("x", "y", "z"),
        axes=(RATE,),
    ).trials
    frame = losses[["trial", "method", "domain", "seed", "learning_rate"]].assign(drawn_by="random")
    frame.assign(loss=losses["score"]).to_csv(tmp_path / "loss.csv", index=False)
    frame.assign(accuracy=1 - losses["score"]).to_csv(tmp_path / "accuracy.csv", index=False)
    how = {"mapping": {"drawn_by": "sampler"}}
    loss = derive_guidelines([tmp_path / "loss.csv"], score="loss", tolerance=0.1, **how)
    turned = {"score": "accuracy", "maximise": True, **how}
    accuracy = derive_guidelines([tmp_path / "accuracy.csv"], tolerance=0.1, **turned)
    assert [(g.id, g.status) for g in loss.guidelines] == [
        (g.id, g.status) for g in accuracy.guidelines
    ]
    best = {
        name: next(g for g in file.claimed if g.id == "method_choice/best")
        for name, file in (("l", loss), ("a", accuracy))
    }
    assert best["l"].scope.method == best["a"].scope.method == "a"
    numbers = {
        name: found.estimates["differences"][0]["difference"] for name, found in best.items()
    }
    assert numbers["l"] == pytest.approx(-0.3, abs=0.1)
    assert numbers["a"] == pytest.approx(-numbers["l"], rel=1e-4)
    shown = trials_as_given(trial_table(load([tmp_path / "accuracy.csv"], **turned)))
    assert np.sort(shown["score"]) == pytest.approx(np.sort(1 - losses["score"]))
