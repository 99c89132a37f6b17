"""What `run`, `resume`, `confirm` and `status` say last of a study whose trials failed. Nothing is
run: the trials have ended already, so `resume` and `confirm` only show them."""

import json
from pathlib import Path

import pytest

from ray_unlearn.execution.confirm import confirming_spec
from ray_unlearn.execution.resume import write_spec
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.study_header import study_header
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import RowMeasured, SessionBegan, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.schema import Outcome
from ray_unlearn.store.score import ScoreRule
from ray_unlearn.store.status import open_study
from ray_unlearn.unlearn.data import prepare

Ends = list[tuple[Outcome, str]]
ROW = {"score_selection": 0.5, "score_reporting": 0.6, "forget_nll": 3.0}


def written(folder: Path, spec: StudySpec, ends: Ends) -> Path:
    """A study of trials that ended like this; a complete one has a row with a score."""
    header = study_header(spec, prepare(spec.data, spec.model))
    search = Search(spec, header.context)
    with Ledger.create(folder / "ledger", header) as ledger:
        ledger.append(SessionBegan(total=len(ends)))
        for number, (status, reason) in enumerate(ends):
            config = search.ask(number)
            content = config.model_dump(mode="json")
            ledger.append(TrialAsked(number=number, trial_id=config.id, config=content))
            if status == "complete":
                metrics = ROW | {"update": config.steps}
                ledger.append(RowMeasured(number=number, update=config.steps, metrics=metrics))
            ledger.append(TrialEnded(number=number, status=status, reason=reason))
    write_spec(folder / "study.yaml", spec)
    return folder


@pytest.fixture
def ended(tiny_study: StudySpec, tmp_path: Path):
    return lambda ends: written(tmp_path / "study", tiny_study, ends)


@pytest.fixture
def confirmed(ended):
    """A study whose best configuration was run again with new seeds, which ended like this."""

    def write(ends: Ends) -> Path:
        folder = ended([("complete", "")] * 4)
        spec, record = open_study(folder)
        best = ScoreRule.of(record, spec).top(record, 1)
        again = confirming_spec(spec, record, best, len(ends), "confirm")
        written(folder / "confirm", again, ends)
        return folder

    return write


@pytest.mark.parametrize(
    ("ends", "last"),
    [
        (
            [("failed", f"OSError: no space for update {update}") for update in range(4)],
            "none of the 4 trials has a result: OSError: no space for update 0 (4); once the cause "
            "is gone: ray-unlearn resume {study} --retry-failed",
        ),
        (
            [("diverged", "loss is not finite")] * 3 + [("out_of_memory", "")],
            "none of the 4 trials has a result: loss is not finite (3); out of memory (1)",
        ),
        (
            [("complete", "")] * 3 + [("failed", "no luck")],
            "1 of 4 trials have no result: no luck (1); once the cause is gone: "
            "ray-unlearn resume {study} --retry-failed",
        ),
    ],
)
def test_failed_trials_are_not_done_and_the_last_line_says_why(
    cli, ended, ends: Ends, last: str
) -> None:
    folder = ended(ends)
    code, out, err = cli("resume", folder)
    assert code == 3
    assert err.splitlines()[-1] == last.format(study=folder)
    assert "done" not in err
    assert f"without a result: {sum(status != 'complete' for status, _ in ends)} of 4" in out


def test_a_few_diverged_trials_are_done_and_still_counted(cli, ended) -> None:
    folder = ended([("complete", "")] * 3 + [("diverged", "loss is not finite")])
    code, out, err = cli("resume", folder)
    assert code == 0
    assert err.splitlines()[-1] == f"done; report with: ray-unlearn report {folder}"
    assert "without a result: 1 of 4 trials: loss is not finite (1)" in out


def test_a_confirmation_without_a_result_says_why_last(cli, confirmed) -> None:
    folder = confirmed([("failed", f"OSError: no space for update {n}") for n in range(2)])
    code, out, err = cli("confirm", folder, "--seeds", 2)
    assert code == 3
    assert err.splitlines()[-1] == (
        "none of the 2 trials has a result: OSError: no space for update 0 (2); once the cause is "
        f"gone: ray-unlearn resume {folder / 'confirm'} --retry-failed"
    )
    assert "without a result: 2 of 2 trials: OSError: no space for update 0 (2)" in out
    shown = json.loads(cli("confirm", folder, "--seeds", 2, "--json")[1])
    assert shown["reasons"] == {"OSError: no space for update 0": 2}
    saved = json.loads((folder / "confirm" / "confirm.json").read_text())
    assert saved["reasons"] == shown["reasons"]


def test_a_confirmation_with_a_few_diverged_seeds_is_done_and_says_why(cli, confirmed) -> None:
    folder = confirmed([("complete", "")] * 2 + [("diverged", "loss is not finite")])
    code, out, err = cli("confirm", folder, "--seeds", 3)
    assert code == 0
    assert "without a result: 1 of 3 trials: loss is not finite (1)" in out
    assert "--retry-failed" not in err


def test_from_python_a_run_gives_its_reasons(ended) -> None:
    import ray_unlearn as ru

    ends: Ends = [("failed", "no luck")] * 3 + [("diverged", "loss is not finite")]
    study = ru.open(ended(ends)).resume(quiet=True)
    assert study.last_run.counts == {"failed": 3, "diverged": 1}
    assert study.last_run.reasons == {"no luck": 3, "loss is not finite": 1}
    assert repr(study).endswith("no luck (3); loss is not finite (1)>")


def test_from_python_a_confirmation_gives_its_reasons(confirmed) -> None:
    import ray_unlearn as ru

    study = ru.open(confirmed([("failed", "no luck")] * 2))
    assert study.confirm(seeds=2, quiet=True).reasons == {"no luck": 2}
    assert study.last_run.reasons == {"no luck": 2}


def test_status_gives_the_reasons_to_people_and_scripts(cli, ended) -> None:
    folder = ended([("failed", "no luck")] * 4)
    code, out, _ = cli("status", folder)
    assert code == 0
    assert "without a result: 4 of 4 trials: no luck (4)" in out
    assert json.loads(cli("status", folder, "--json")[1])["reasons"] == {"no luck": 4}


def test_the_best_trial_that_is_not_there_is_an_error_with_the_reasons(ended) -> None:
    import ray_unlearn as ru

    folder = ended([("failed", "no luck")] * 4)
    with pytest.raises(ru.UserError, match=r"no trial has a score: no luck \(4\)"):
        _ = ru.open(folder).best
