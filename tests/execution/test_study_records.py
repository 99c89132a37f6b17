"""What is written and shown of a study, without Ray."""

import io
import math
import signal
from pathlib import Path

import pytest
from rich.console import Console
from specs import finished, row, space, study
from stand_in import NLL, config

from ray_unlearn.execution.conductor import LaneError, pending, record_first_job
from ray_unlearn.execution.interrupt import Interrupt
from ray_unlearn.execution.messages import BestWeights, Prepared
from ray_unlearn.execution.progress import Progress
from ray_unlearn.execution.recorder import Recorder
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.operations import Operations
from ray_unlearn.store.event import BaselineMeasured, Header, RowMeasured
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.schema import Row


class Deaf:
    """A search and a pruner that keep what they are told, and stop at update 2."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str | None]] = []

    def tell(self, trial: Trial) -> None:
        self.told.append((trial.number, trial.status))

    def verdict(self, record: Record, number: int, row: Row) -> str | None:
        return "enough" if row["update"] == 2 else None


def metrics(update: int, forget_nll: float = 1.5) -> Row:
    return NLL | {"update": update, "forget_nll": forget_nll, "flops": 10.0}


def test_a_replayed_row_is_written_once_and_still_gets_its_verdict(tmp_path: Path) -> None:
    """A study that died between a row and its trial's outcome would otherwise never stop that
    trial."""
    search = Deaf()
    with Ledger.create(tmp_path, Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        recorder = Recorder(study(space()), ledger, search, search)
        recorder.asked(0, config(), "planted")
        assert recorder.row(0, 0, metrics(1)) is None
        ledger.append(
            RowMeasured(
                number=0, trial_id="", attempt=0, update=2, metrics=ledger.record.trials[0].rows[0]
            )
        )
        assert recorder.row(0, 1, metrics(1, 9.9)) is None
        assert recorder.row(0, 1, metrics(2)) == "enough"
        recorder.outcome(0, 1, "complete", "")
        trial = ledger.record.trials[0]
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"row"' in line]) == 2
    assert [row["forget_nll"] for row in trial.rows] == [1.5, 1.5], (
        "the first value of an update stays"
    )
    assert (trial.status, trial.reason, trial.attempt) == ("pruned", "enough", 1), (
        "the first outcome stays"
    )
    assert search.told == [(0, "pruned")]


def test_halves_that_were_lost_are_dealt_again_only_as_they_were(tmp_path: Path) -> None:
    """Rows measured on other halves would stand beside those of before as if they were alike."""

    def dealt(target: float) -> Prepared:
        rows = {"vanilla": metrics(0) | {"approximate_nll_selection": target}}
        return Prepared(rows, halves={"approximate": "srrs"})

    with Ledger.create(tmp_path, Header(dealing="balanced")) as ledger:
        target = NLL["approximate_nll_selection"]
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0)))
        recorder = Recorder(study(space()), ledger, Deaf(), Deaf())
        recorder.asked(0, config(), "planted")
        with pytest.raises(LaneError, match="the selection half has another target"):
            record_first_job(ledger, dealt(target + 0.01), print)
        assert ledger.record.halves == {}
        record_first_job(ledger, dealt(target), print)
        assert ledger.record.halves == {"approximate": "srrs"}


def test_rows_are_scored_by_the_studys_baselines(tmp_path: Path) -> None:
    search = Deaf()
    with Ledger.create(tmp_path, Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        recorder = Recorder(study(space()), ledger, search, search)
        recorder.asked(0, config())
        recorder.row(0, 0, metrics(1))
        written = ledger.record.trials[0].rows[0]
    assert written["forget_gap_selection"] == pytest.approx(0.5)
    assert written["score_selection"] == pytest.approx(0.5)
    assert written["efficiency_ratio"] == pytest.approx(10.0)


def test_a_best_row_whose_trial_diverges_is_not_the_one_to_beat(tmp_path: Path) -> None:
    """Else the weights of the best row that counts are never kept."""
    with Ledger.create(tmp_path, Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        for known in (2.0, 1.1):  # trial 0 is worse than trial 1, which diverges
            number = len(ledger.record.trials)
            recorder = Recorder(study(space()), ledger, Deaf(), Deaf())  # as if resumed in between
            recorder.asked(number, config(seed=number))
            recorder.row(number, 0, metrics(1, known))
            assert recorder.is_best(number, (1, 1.0))
        recorder.outcome(0, 0, "complete", "")
        recorder.outcome(1, 0, "diverged", "diverged")
        for number, score, best in ((2, 2.5, False), (3, 1.5, True), (4, 1.7, False)):
            recorder.asked(number, config(seed=number))
            recorder.row(number, 0, metrics(1, score))
            assert recorder.is_best(number, (1, 1.0)) == best


def test_rows_are_screened_against_the_best_of_their_own_method(tmp_path: Path) -> None:
    spec = study(space(), space("ascent_kl_general", retain_ratio=1.0, w_r=1.0))
    spec = spec.model_copy(
        update={"evaluation": spec.evaluation.model_copy(update={"screen": 0.25})}
    )
    with Ledger.create(tmp_path, Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        recorder = Recorder(spec, ledger, Deaf(), Deaf())
        first = recorder.incumbent("gradient_ascent")
        assert first is not None
        assert first.score == math.inf
        assert first.vanilla["approximate_nll_selection"] == NLL["approximate_nll_selection"]
        assert len(first.vanilla) == 6
        for number, known in ((0, 1.4), (1, 1.2), (2, 1.3)):
            recorder.asked(number, config(seed=number))
            recorder.row(number, 0, metrics(1, known))
        best = min(row["score_selection"] for t in ledger.record.trials.values() for row in t.rows)
        assert recorder.incumbent("gradient_ascent").score == best, "of trials that still run, too"
        assert recorder.incumbent("ascent_kl_general").score == math.inf
        found = [n for n, t in ledger.record.trials.items() if t.rows[0]["score_selection"] == best]
        recorder.outcome(found[0], 0, "diverged", "")
        assert recorder.incumbent("gradient_ascent").score > best, "that one does not count"
        assert Recorder(study(), ledger, Deaf(), Deaf()).incumbent("gradient_ascent") is None


def test_a_late_word_of_former_best_weights_costs_its_own_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    with Ledger.create(tmp_path / "study" / "ledger", Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        recorder = Recorder(study(space()), ledger, Deaf(), Deaf())
        files = []
        for number, known in ((0, 1.4), (1, 1.2)):
            recorder.asked(number, config(seed=number))
            recorder.row(number, 0, metrics(1, known))
            files.append(BestWeights(number, 1, f"trials/best/{number}", 1, str(number)))
            path = tmp_path / "study" / files[number].file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("weights")
        for weights in (files[1], files[0], files[1]):
            recorder.weights_saved(weights)
        kept = ledger.record.best_weights
        assert kept is not None
        assert (kept.number, kept.file) == (1, files[1].file)
        assert [p.name for p in (tmp_path / "study" / "trials" / "best").iterdir()] == ["1"]
        recorder.outcome(1, 0, "diverged", "diverged")
        assert ledger.record.best_weights is None, "its row does not count any more"
        assert list((tmp_path / "study" / "trials" / "best").iterdir()) == []


def test_a_resumed_study_runs_begun_trials_first_and_then_the_numbers_never_asked_for() -> None:
    spec = study(space())
    done = finished(0, config(), [row(3, 0.1)])
    begun = finished(2, config(), [], status=None)
    assert list(pending({0: done, 2: begun}, 5)) == [2, 1, 3, 4]
    assert list(pending({0: done}, 1)) == []
    assert spec.search.trials_per_method == 20


def test_progress_without_a_terminal_is_one_line_per_finished_trial() -> None:
    out = io.StringIO()
    spec = study(space(), evaluate_at=(1, 3))
    before = Record(Header(), trials={0: finished(0, config(), [row(3, 0.3)])})
    with Progress(spec, before, 4, Console(file=out)) as progress:
        for number, status in ((1, "complete"), (2, "failed")):
            trial = finished(number, config(), [row(3, 0.1)], None)
            progress.on_trial(trial)
            progress.on_row(trial, trial.rows[0])
            trial.status, trial.reason = (
                status,
                "" if status == "complete" else "ValueError: no luck",
            )
            progress.on_outcome(trial)
    first, second = out.getvalue().splitlines()
    assert first.startswith(
        "[2/4] trial 1 gradient_ascent lr 1.00e-03 complete: score 0.1000 at update 3"
    )
    assert (
        second == "[3/4] trial 2 gradient_ascent lr 1.00e-03 failed: ValueError: no luck, 0 s left"
    )


def test_progress_says_at_which_strength_a_trial_was_best() -> None:
    spec = study(space(), evaluate_at=(1, 3))
    evaluation = spec.evaluation.model_copy(update={"strength": "both"})
    spec = spec.model_copy(update={"evaluation": evaluation})
    out = io.StringIO()
    with Progress(spec, Record(Header()), 1, Console(file=out)) as progress:
        trial = finished(0, config(), [row(3, 0.2), row(3, 0.1, strength=0.7071)])
        progress.on_trial(trial)
        progress.on_outcome(trial)
    assert "complete: score 0.1000 at update 3 at strength 0.707" in out.getvalue()


def test_progress_on_a_terminal_shows_what_runs_what_is_best_and_the_counts() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, record=True)
    progress = Progress(study(space()), Record(Header()), 4, console)
    done, running = (
        finished(0, config(), [row(1, 0.25)]),
        finished(1, config(steps=3), [row(2, 0.5)], None),
    )
    progress.on_trial(done)
    progress.on_outcome(done)
    progress.on_trial(running)
    console.print(progress._render())
    shown = console.export_text()
    assert "test: 1/4 trials" in shown
    assert "1 complete" in shown
    assert "2/3" in shown, "the running trial's update"
    assert "0.2500" in shown, "the best score"


def test_the_first_interrupt_asks_and_the_second_insists() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(said.append) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_lane_that_fits_on_no_machine_is_refused(ray_here: None) -> None:
    from ray_unlearn.execution.ray_runtime import connected

    with (
        pytest.raises(UserError, match=r"needs 1 GPU, but the largest node has 0"),
        connected(None, Operations(gpus_per_worker=1)),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"lane of 500 workers"),
        connected(None, Operations(workers_per_lane=500)),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(address: str) -> None:
    """Left to itself, Ray tries for minutes."""
    from ray_unlearn.execution.ray_runtime import placed_on

    with pytest.raises(UserError, match=f"cannot connect to Ray at {address}: .*is it running"):
        placed_on(address, Operations(), 1, 1.0)


def test_a_trial_that_died_before_its_verdict_gets_it_when_the_study_is_resumed(
    tmp_path: Path,
) -> None:
    """Otherwise a stopped study would run on what the undisturbed one had pruned."""
    search = Deaf()
    with Ledger.create(tmp_path / "ledger", Header(retraining_flops=100.0)) as ledger:
        ledger.append(BaselineMeasured(name="vanilla", metrics=metrics(0, 1.0)))
        recorder = Recorder(study(space()), ledger, search, search)
        for number, updates in ((0, (1,)), (1, (1, 2)), (2, ())):
            recorder.asked(number, config(seed=number))
            for update in updates:
                measured = metrics(update) | {"score_selection": 0.5}
                ledger.append(RowMeasured(number=number, update=update, metrics=measured))
        assert [recorder.settled(number) for number in range(3)] == [False, True, False]
        assert (ledger.record.trials[1].status, ledger.record.trials[1].reason) == (
            "pruned",
            "enough",
        )
    assert search.told == [(1, "pruned")]
