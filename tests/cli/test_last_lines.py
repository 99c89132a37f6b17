"""What `run`, `resume` and `status` say last of a study whose trials failed. Nothing is run: the
trials have ended already, so `resume` only shows them."""

import json
from pathlib import Path

import pytest

from ray_unlearn.execution.resume import write_spec
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.study import _header
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import SessionBegan, TrialAsked, TrialEnded
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.schema import Outcome
from ray_unlearn.unlearn.data import prepare

Ends = list[tuple[Outcome, str]]


@pytest.fixture
def ended(tiny_study: StudySpec, tmp_path: Path):
    """A study of four trials that ended like this."""

    def write(ends: Ends) -> Path:
        header = _header(tiny_study, prepare(tiny_study.data, tiny_study.model))
        search = Search(tiny_study, header.context)
        folder = tmp_path / "study"
        with Ledger.create(folder / "ledger", header) as ledger:
            ledger.append(SessionBegan(total=4))
            for number, (status, reason) in enumerate(ends):
                config = search.ask(number)
                ledger.append(
                    TrialAsked(
                        number=number, trial_id=config.id, config=config.model_dump(mode="json")
                    )
                )
                ledger.append(TrialEnded(number=number, status=status, reason=reason))
        write_spec(folder / "study.yaml", tiny_study)
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
