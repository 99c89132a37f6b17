"""What `report` says of anyone's table, as a user reads it: the page, the last line, the API."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

RATES = 10 ** np.random.default_rng(7).uniform(-6, -3, 24)
LOSSES = (np.log10(RATES) + 4.5) ** 2
BEST = int(LOSSES.argmin())


def test_a_table_of_failures_alone_still_becomes_a_page(tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,layers,forget_rouge1,retain_ppl\na,[1],FAIL,FAIL\n")
    code, out, err = cli("report", path, "--score", "forget_rouge1", "-o", tmp_path / "out")
    assert (code, err.count("error")) == (0, 0)
    page = Path(out.strip()).with_name("report.md").read_text()
    assert "No trial has an outcome: 1 failed." in page
    assert "| `retain_ppl` | outcome |" in page


def test_page_command_and_api_name_the_best_trial_and_every_column(
    tmp_path: Path, cli: Any
) -> None:
    import ray_unlearn as ru

    frame = pd.DataFrame({"run": range(24), "lr": RATES, "runtime_s": 1.0, "val_loss": LOSSES})
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, out, err = cli("report", tmp_path / "t.csv", "-o", tmp_path / "out")
    assert code == 0
    sentence = f"est trial of t: {BEST}, val_loss {LOSSES[BEST]:.6g}"
    assert sentence in err.splitlines()[-1]
    page = Path(out.strip())
    assert sentence.replace("_", "\\_") in page.with_name("report.md").read_text()
    assert sentence in page.read_text()
    guide = ru.guidelines(tmp_path / "t.csv")
    assert guide.best[0].hyperparameters == {"learning_rate": pytest.approx(RATES[BEST])}
    assert list(guide.columns["use"]) == ["trial", "hyperparameter", "left out", "score"]
    written = pd.read_csv(page.parent / "data" / "columns.csv")
    assert list(written["use"]) == list(guide.columns["use"])


def test_the_command_scores_by_a_users_own_weights_and_says_so(tmp_path: Path, cli: Any) -> None:
    parts = {"forget_gap": LOSSES, "retain_utility_loss": 0, "general_utility_loss": RATES * 1e4}
    frame = pd.DataFrame({"run": range(24), "lr": RATES, "score": 1.0} | parts)
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, _, err = cli("report", tmp_path / "t.csv", "--objective", "general=2", "-o", tmp_path)
    assert code == 0
    assert "Scores weigh forget_gap 1, retain 1, general 2." in err
    best = int((LOSSES + RATES * 1e4).argmin())
    assert f"est trial of t: {best}, score" in err.splitlines()[-1]
    assert best != BEST
    code, _, err = cli("report", tmp_path / "t.csv", "--objective", "forget_gap=0", "-o", tmp_path)
    assert code == 2
    assert "otherwise doing nothing wins" in err


def test_the_next_trials_of_a_table_are_named_where_they_can_be_found(
    tmp_path: Path, cli: Any
) -> None:
    frame = pd.DataFrame({"run": range(5), "lr": RATES[:5], "val_loss": LOSSES[:5]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, out, err = cli("report", tmp_path / "t.csv", "--next", "3", "-o", tmp_path / "out")
    assert code == 0, err
    place = Path(out.strip()).with_name("next.csv")
    assert f"The next trials: {place}" in err
    rates = pd.read_csv(place)["learning_rate"]
    assert len(rates) == 3
    assert rates.between(RATES[:5].min(), RATES[:5].max()).all()
