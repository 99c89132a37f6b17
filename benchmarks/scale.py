"""The overhead of a study of 10,000 trials with 10 rows each.

It is measured per trial while the study runs, and at start, status and end.

    overhead  a warm lane with the trivial trial of `lane_overhead.py`: does the time per trial grow
              with the trials before?
    driver    the same question for the driver's own work, without Ray: real search, early stopping,
              ledger and observers, 10 full rows a trial, in a study that has few or many trials
              already
    ledger    a study directory of full width, written by the real encoding; each step in a process
              of its own
    suggest   one suggestion, and one verdict of early stopping, after so many trials of one method

Times of `overhead` and `ledger` are the wall clock's; those of `driver` and `suggest` are CPU time,
in which a busy neighbour and the disk do not show. `process` is a step's whole process, as a user
waits for it, and counts against the limit; `seconds` leaves out the start of Python and the
imports. Peak memory is the process's (VmHWM: Linux only).

    python benchmarks/scale.py [--trials 10000] [--only overhead|driver|ledger|suggest]
"""

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

# What measures memory imports the rest where it is used.
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import (
    BaselineMeasured,
    Event,
    Header,
    RowMeasured,
    SessionBegan,
    TrialAsked,
    TrialEnded,
)
from ray_unlearn.store.event_line import HOT, StoredRow, encoded
from ray_unlearn.store.ledger import Ledger, read_ledger
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.scan import acknowledged_file, events_file, header_file
from ray_unlearn.store.schema import COLUMNS, Row
from ray_unlearn.store.score import ScoreRule

ROWS = 10
METHODS = 5
WINDOWS = ((50, 150), (900, 1_100), (9_800, 10_000))
"""Trials whose times are compared: around 100, 1,000 and 10,000."""
PAST = (100, 1_000, 3_000, 10_000)
CALLS = 7
LIMIT_S = {"read_ledger": 5.0, "status": 5.0, "open": 5.0, "resume": 30.0}
CONTEXT = "scale"
STATUS = ("complete",) * 18 + ("pruned", "diverged")


def spec_of(
    trials: int, methods: int = METHODS, sampler: str = "tpe", scheduler: str = "median"
) -> StudySpec:
    """The demo study with 10 evaluations a trial and `trials` trials in all.

    There is one more trial of each method to ask for.
    """
    demo = load_study(Path(__file__).parent.parent / "studies" / "demo.yaml")
    content = demo.model_dump(mode="json")
    content["methods"] = content["methods"][:methods]
    content["spaces"] = {method: content["spaces"][method] for method in content["methods"]}
    content["search"] |= {
        "trials_per_method": trials // methods + 1,
        "sampler": sampler,
        "quasi_random_share": 0.0,
    }
    content["search"]["scheduler"] |= {"type": scheduler, "grace_updates": 8}
    content["evaluation"] = {"at": [8 * (i + 1) for i in range(ROWS)]}
    return StudySpec.model_validate(content)


def metrics_of(update: int, draw: random.Random) -> dict[str, Any]:
    """The metrics of a row of full width."""
    return {name: draw.random() for name in COLUMNS} | {"update": update}


def events(spec: StudySpec, trials: int) -> Iterator[Event]:
    """Events of a study whose trials have all ended, but for those of its last round.

    The search chooses the configurations.
    """
    from ray_unlearn.execution.search import Search

    draw = random.Random(0)
    search = Search(spec_of(trials, len(spec.methods), sampler="random"), CONTEXT)
    yield Header(
        spec=spec.model_dump(mode="json"),
        domain="shakespeare",
        context=CONTEXT,
        retraining_flops=1e12,
    )
    yield SessionBegan(total=search.total, host="scale", pid=1)
    baseline = metrics_of(0, draw)
    baseline["forget_nll"] = baseline[
        "approximate_nll_selection"
    ]  # its score is 0, the best there can be
    yield BaselineMeasured(name="vanilla", metrics=baseline)
    yield BaselineMeasured(name="exact_retrain", metrics=baseline)
    for number in range(trials):
        config = search.ask(number)
        assert config is not None
        of_trial: dict[str, Any] = {"number": number, "trial_id": config.id}
        yield TrialAsked(**of_trial, source="random", config=config.model_dump(mode="json"))
        for update in config.evaluate_at:
            yield RowMeasured(
                **of_trial, attempt=0, update=update, metrics=metrics_of(update, draw)
            )
        yield TrialEnded(**of_trial, attempt=0, status=STATUS[number % len(STATUS)], reason="")


def write_study(folder: Path, spec: StudySpec, trials: int) -> None:
    """Write a study directory as a killed driver leaves it, without its 100,000 fsyncs."""
    ledger = folder / "ledger"
    ledger.mkdir(parents=True)
    with open(events_file(ledger), "wb") as file:
        for seq, event in enumerate(events(spec, trials)):
            line = encoded(event, seq, fence=1, time="2026-01-01T00:00:00.000+00:00")
            file.write(line)
            if seq == 0:
                header_file(ledger).write_bytes(line)
    acknowledged_file(ledger).write_bytes(b"%020d\n" % seq)


# --------------------------------------------------------------------------------------------------
# while it runs


def overhead(trials: int) -> None:
    """Time per trial of a warm lane, early and late."""
    import lane_overhead
    import ray

    from ray_unlearn.execution.ray_runtime import connected
    from ray_unlearn.spec.operations import Operations

    ray.cloudpickle.register_pickle_by_value(lane_overhead)  # workers cannot import this folder
    with connected(None, Operations(lanes=1)):
        seconds = lane_overhead.lane(lane_overhead.any_spec(), trials, workers=1)
    windows("warm lane", seconds)


def driver(trials: int) -> None:
    """Time per trial of all that the driver does, without Ray, early and late in a study.

    Each window follows a replay of what was before.
    """
    suggestion: list[float] = []
    rest: list[float] = []
    for start, end in WINDOWS:
        if start < trials:
            asks, others = zip(*driver_seconds(start, min(end, trials) - start), strict=True)
            suggestion += [0.0] * (start - len(suggestion)) + list(asks)
            rest += [0.0] * (start - len(rest)) + list(others)
    windows("driver: suggestion", suggestion)
    windows("driver: all else", rest)


def driver_seconds(before: int, trials: int) -> list[tuple[float, float]]:
    """CPU seconds of the suggestion and of all else, for each of `trials` trials.

    The study has had `before` trials before.
    """
    from rich.console import Console

    from ray_unlearn.execution.early_stopping import Pruner
    from ray_unlearn.execution.exports.tensorboard_log import TensorBoardObserver
    from ray_unlearn.execution.progress import Progress
    from ray_unlearn.execution.recorder import Recorder
    from ray_unlearn.execution.search import Search

    seconds: list[tuple[float, float]] = []
    spec = spec_of(before + trials + METHODS, scheduler="asha")
    with tempfile.TemporaryDirectory() as name:
        write_study(Path(name), spec, before)
        with Ledger.open(Path(name) / "ledger") as ledger:
            search = Search(spec, CONTEXT)
            search.replay(ledger.record)
            board = TensorBoardObserver(
                Path(name) / "tensorboard", ScoreRule.of(ledger.record, spec)
            )
            progress = Progress(spec, ledger.record, search.total, Console(file=io.StringIO()))
            recorder = Recorder(spec, ledger, search, Pruner(spec), [progress, board])
            faultless = ledger.record.baselines[
                "vanilla"
            ]  # the vanilla model's row: never stopped, ten rows each
            for number in range(before, before + trials):
                began = time.process_time()
                config = search.ask(number)
                asked = time.process_time()
                assert config is not None
                recorder.asked(number, config, search.source(number))
                for update in config.evaluate_at:
                    assert recorder.row(number, 0, faultless | {"update": update}) is None
                recorder.outcome(number, 0, "complete" if number % 10 else "diverged", "")
                seconds.append((asked - began, time.process_time() - asked))
    return seconds


def windows(name: str, seconds: list[float]) -> None:
    """Print the median of each window, and the last over the first."""
    medians = []
    for start, end in WINDOWS:
        window = seconds[start:end]
        if window:
            medians.append(statistics.median(window) * 1000)
            where = f"trials {start:6,} to {start + len(window):6,}"
            print(
                f"{name:20} {where}: median {medians[-1]:7.1f} ms, most {max(window) * 1000:.0f} ms"
            )
    if medians:
        print(
            f"{name:20} last over first {medians[-1] / medians[0]:.2f}, peak memory "
            f"{peak_mib():,.0f} MiB"
        )


# --------------------------------------------------------------------------------------------------
# a full ledger


def step_read_ledger(folder: Path) -> Callable[[], object]:
    return lambda: read_ledger(folder / "ledger")


def step_open(folder: Path) -> Callable[[], object]:
    return lambda: Ledger.open(folder / "ledger").close()


def step_resume(folder: Path) -> Callable[[], object]:
    """Do what `resume` does from the ledger before Ray starts, and make the first suggestion."""
    from ray_unlearn.execution.conductor import pending
    from ray_unlearn.execution.early_stopping import Pruner
    from ray_unlearn.execution.recorder import Recorder
    from ray_unlearn.execution.resume import resumed_spec
    from ray_unlearn.execution.search import Search
    from ray_unlearn.execution.study import LEDGER_FOLDER

    def resume() -> None:
        with Ledger.open(folder / LEDGER_FOLDER) as ledger:
            spec = resumed_spec(folder, ledger)
            search = Search(spec, CONTEXT)
            search.replay(ledger.record)
            Recorder(spec, ledger, search, Pruner(spec))
            assert search.ask(next(pending(ledger.record.trials, search.total))) is not None

    return resume


def step_verify(folder: Path) -> Callable[[], object]:
    from ray_unlearn.store.verify import verify

    def check() -> None:
        found = verify(folder)
        assert not found.problems, found.problems

    return check


def step_result_table(folder: Path) -> Callable[[], object]:
    from ray_unlearn.store.table import result_table, write_table

    record = read_ledger(folder / "ledger")
    return lambda: write_table(result_table(record), folder / "scale.parquet")


def step_journal(folder: Path) -> Callable[[], object]:
    from ray_unlearn.execution.exports.optuna_journal import export_journal
    from ray_unlearn.store.status import open_study

    spec, record = open_study(folder)
    return lambda: export_journal(record, spec, folder / "optuna.journal")


STEPS = {
    "read_ledger": step_read_ledger,
    "open": step_open,
    "resume": step_resume,
    "verify": step_verify,
    "result table": step_result_table,
    "Optuna journal": step_journal,
}


def measured(step: str, folder: Path) -> None:
    """Do one step and print its time, in a child process of `ledger`."""
    work = STEPS[step](folder)
    began = time.perf_counter()
    work()
    print(json.dumps({"seconds": time.perf_counter() - began}))


def ledger(trials: int) -> None:
    """Write a study and measure each step in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        began = time.perf_counter()
        write_study(folder, spec_of(trials), trials)
        size = events_file(folder / "ledger").stat().st_size / 2**20
        print(
            f"ledger of {trials:,} trials x {ROWS} rows: {size:.0f} MiB, made in "
            f"{time.perf_counter() - began:.0f} s"
        )
        print(f"{'':16} {'seconds':>8} {'process':>8} {'peak MiB':>9} {'limit s':>8}")
        status = [str(Path(sys.executable).parent / "ray-unlearn"), "status", str(folder)]
        report("status", *child(status))
        for step in STEPS:
            report(
                step, *child([sys.executable, __file__, "--step", step, "--folder", str(folder)])
            )


def child(command: list[str]) -> tuple[float, float, float]:
    """Run a command, and return seconds of its step and of the process, and peak memory in MiB.

    If the command reports no step, the seconds of its step are those of the process.
    """
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            peak = max(peak, peak_mib(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    assert process.stdout is not None
    output = process.stdout.read()
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    told = output.startswith('{"seconds"')
    return json.loads(output)["seconds"] if told else seconds, seconds, peak


def report(step: str, seconds: float, process: float, peak: float) -> None:
    limit = LIMIT_S.get(step)
    verdict = "" if limit is None else f"{limit:8.0f} {'ok' if process < limit else 'OVER'}"
    print(f"{step:16} {seconds:8.1f} {process:8.1f} {peak:9,.0f} {verdict}")


def peak_mib(pid: int | str = "self") -> float:
    """Peak resident memory of a process in MiB.

    `ru_maxrss` would include the parent's, from which it was forked.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


# --------------------------------------------------------------------------------------------------
# one call


def suggest(trials: int) -> None:
    """Measure `Search.ask` and `Pruner.verdict` after many trials of one method."""
    from ray_unlearn.execution.early_stopping import Pruner
    from ray_unlearn.execution.search import Search

    spec = spec_of(trials + CALLS, methods=1)
    past = list(trials_in_memory(spec, trials))
    for count in (n for n in PAST if n <= trials):
        search, record = Search(spec, CONTEXT), Record(Header())
        record.trials.update((trial.number, trial) for trial in past[:count])
        replay = timed(search.replay, 1, record)[0]
        show(f"ask (tpe), {count:,} past", timed(search.ask, CALLS, count))
        print(f"{'':40} replay {replay / count:.2f} ms per trial")
        for rule in ("asha", "median"):
            record.trials = {trial.number: trial for trial in past[:count]}
            pruner = Pruner(spec_of(trials, methods=1, scheduler=rule))
            show(f"verdicts ({rule}), {count:,} past, first", verdicts(pruner, record))
            show(f"verdicts ({rule}), {count:,} past, later", verdicts(pruner, record))


def verdicts(pruner: Any, record: Record) -> list[float]:
    """CPU milliseconds of the verdict on each row of one more trial."""
    number, config = len(record.trials), record.trials[0].config
    record.trials[number] = Trial(number, "one more", config)
    taken = []
    for row in stored_rows(config["evaluate_at"], random.Random(number)):
        record.trials[number].rows.append(row)
        taken += timed(pruner.verdict, 1, record, number, row)
    record.trials[number].status = "complete"
    return taken


def trials_in_memory(spec: StudySpec, trials: int) -> Iterator[Trial]:
    """Finished trials with rows as from a ledger, of which only the hot columns are parsed."""
    for event in events(spec, trials):
        match event:
            case TrialAsked():
                trial = Trial(event.number, event.trial_id, event.config)
            case RowMeasured():
                trial.rows += stored_rows([event.update], metrics=event.metrics)
            case TrialEnded():
                trial.status = event.status
                yield trial


def stored_rows(
    updates: list[int], draw: random.Random | None = None, metrics: Any = None
) -> list[Row]:
    made = [metrics or metrics_of(update, draw or random.Random(0)) for update in updates]
    return [
        StoredRow({name: row[name] for name in (*HOT, "update")}, Path(os.devnull), 0, 0, 0, 0)
        for row in made
    ]


def timed(call: Callable[..., object], times: int, *first: Any) -> list[float]:
    """CPU milliseconds of each of several calls, which are numbered."""
    taken = []
    for i in range(times):
        arguments = [argument + i if isinstance(argument, int) else argument for argument in first]
        began = time.process_time()
        call(*arguments)
        taken.append((time.process_time() - began) * 1000)
    return taken


def show(what: str, milliseconds: list[float]) -> None:
    print(
        f"{what:40} median {statistics.median(milliseconds):8.2f} ms, most "
        f"{max(milliseconds):8.2f} ms"
    )


PARTS: dict[str, Callable[[int], None]] = {
    "overhead": overhead,
    "driver": driver,
    "ledger": ledger,
    "suggest": suggest,
}


def main() -> None:
    """Measure all parts, or one."""
    parser = argparse.ArgumentParser(description="what a study of many trials costs")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--only", choices=PARTS, help="this part only")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        measured(arguments.step, arguments.folder)
        return
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"cores {os.cpu_count()}, load {load}")
    for name in [arguments.only] if arguments.only else PARTS:
        PARTS[name](arguments.trials)


if __name__ == "__main__":
    main()
