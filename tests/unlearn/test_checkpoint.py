"""A trial that goes on from a checkpoint is the trial that was never cut off. If not, a resumed
study mixes two."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import ON_TEXTS, config, fresh, run, weights

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import COLUMNS, Row
from ray_unlearn.unlearn.checkpoint import Checkpoints, TrialState, attempt_file, save_weights
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.meter import Meter
from ray_unlearn.unlearn.optimizer import make_optimizer
from ray_unlearn.unlearn.policy import load_policy
from ray_unlearn.unlearn.workspace import Workspace

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]


@pytest.fixture
def workspace(tiny_study: StudySpec) -> Workspace:
    return fresh(tiny_study)


class Wish:
    """Asks for a checkpoint after one update, and remembers what it was told."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.restored: list[int] = []
        self.saved: list[int] = []
        self.failed: list[str] = []

    def checkpointer(self, path: Path, known: Iterator[int] | tuple[int, ...] = ()) -> Checkpoints:
        return Checkpoints(
            path,
            None,
            frozenset(known),
            lambda update: update == self.at,
            self.restored.append,
            self.saved.append,
            self.failed.append,
        )


def columns(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in REPEATABLE if name in row}


def cut_off(workspace: Workspace, trial: Any, path: Path, at: int) -> list[Row]:
    """Run until the first evaluation after update `at`, where a checkpoint was made, and drop the
    trial there."""
    wish, rows = Wish(at), []
    for row in unlearn(workspace, trial, wish.checkpointer(path)):
        assert not isinstance(row, Ended)
        if row["update"] > at:
            break
        rows.append(row)
    assert (wish.saved, wish.failed) == ([at], [])
    return rows


@pytest.mark.parametrize(
    ("method", "at"),
    [("ascent_kl_general", 1), *((method, at) for method in ON_TEXTS for at in (2, 3))],
)
def test_it_goes_on_bit_for_bit(
    tiny_study: StudySpec, tmp_path: Path, method: str, at: int
) -> None:
    """Between two evaluations, and right after one; in another process's fresh models; with weight
    decay and warm-up."""
    it_goes_on(lambda: fresh(tiny_study), method, tmp_path, at)


def it_goes_on(make: Callable[[], Workspace], method: str, folder: Path, at: int) -> None:
    """A trial that continues in another workspace from a checkpoint gives the same rows."""
    trial = config(method, weight_decay=0.1, warmup_steps=2, evaluate_at=(2, 4))
    first = make()
    expected, _ = run(first, trial)
    undisturbed = weights(first)
    path = folder / "trials" / "0000" / "last.pt"
    before = cut_off(make(), trial, path, at)
    second, wish = make(), Wish()
    known = tuple(row["update"] for row in before)
    *after, ended = unlearn(second, trial, wish.checkpointer(path, known))
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    assert wish.restored == [at]
    assert [columns(row) for row in [*before, *after]] == expected  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(weights(second), undisturbed, strict=True))


def test_only_updates_after_the_checkpoint_are_made_again(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = config("gradient_ascent", steps=6, evaluate_at=(2, 6))
    before = cut_off(workspace, trial, tmp_path / "last.pt", 4)
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (steps.append(1), step(self))[1])
    rows = list(unlearn(workspace, trial, Wish().checkpointer(tmp_path / "last.pt", (2,))))
    assert len(steps) == 2
    assert len(before) == 1
    assert len(rows) == 2, "update 6 and the end: the row of update 2 is recorded already"


def test_an_attempt_that_was_given_up_cannot_set_the_trial_back(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Its host was cut off; it goes on and writes into the shared folder, after the next attempt
    has."""
    trial, path = (
        config("gradient_ascent", steps=6, evaluate_at=(6,)),
        tmp_path / "0000" / "last.pt",
    )
    stale, second, third = (attempt_file(path, 1, attempt) for attempt in range(3))
    cut_off(workspace, trial, stale, 1)
    cut_off(workspace, trial, second, 3)
    assert not stale.exists(), "the next attempt has its own"
    cut_off(workspace, trial, stale, 2)
    wish = Wish()
    list(unlearn(workspace, trial, wish.checkpointer(third)))
    assert wish.restored == [3]
    wish = Wish()
    list(unlearn(workspace, trial, wish.checkpointer(attempt_file(path, 2, 0))))
    assert wish.restored == [3], "a later run of the study knows it too"


def test_an_attempt_that_was_given_up_leaves_nothing_in_a_finished_trial(
    workspace: Workspace, tmp_path: Path
) -> None:
    trial, path = config("gradient_ascent"), attempt_file(tmp_path / "0000" / "last.pt", 1, 0)
    wish = Wish(at=3)
    for row in unlearn(workspace, trial, wish.checkpointer(path)):
        if not isinstance(row, Ended) and row["update"] == 2:
            path.parent.rmdir()  # the trial's outcome came from elsewhere
    assert (wish.saved, len(wish.failed)) == ([], 1)
    assert not path.parent.exists()


def test_a_state_that_goes_to_a_gpu_is_not_read_into_host_memory(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Each worker of a lane read 63 GiB at 7 B; mapped, they share the file's pages."""
    trial, path = config("gradient_ascent", evaluate_at=(4,)), tmp_path / "last.pt"
    cut_off(workspace, trial, path, 3)
    state = TrialState(
        workspace,
        trial,
        make_optimizer(workspace.parameters, trial, "exact"),
        Meter(workspace, trial),
    )
    content = state.read(path, ())
    assert content is not None
    assert str(path) not in Path("/proc/self/maps").read_text()
    workspace.device = torch.device("cuda")
    mapped = state.read(path, ())
    assert mapped is not None
    assert str(path) in Path("/proc/self/maps").read_text()
    pairs = zip(content["parameters"], mapped["parameters"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_with_a_flipped_bit_is_not_used(workspace: Workspace, tmp_path: Path) -> None:
    """torch.load takes it without a word."""
    trial, path = config("gradient_ascent", evaluate_at=(4,)), tmp_path / "last.pt"
    cut_off(workspace, trial, path, 3)
    content = bytearray(path.read_bytes())
    [start, *_] = [content.find(p.numpy().tobytes()) for p in torch.load(path)["parameters"][:1]]
    assert start > 0
    content[start + 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    wish = Wish()
    list(unlearn(workspace, trial, wish.checkpointer(path)))
    assert wish.restored == []


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, -1])
def test_a_torn_checkpoint_costs_time_and_not_the_trial(
    workspace: Workspace, tmp_path: Path, size: int
) -> None:
    trial = config("ascent_kl_in_distribution")
    expected, _ = run(workspace, trial)
    path = tmp_path / "last.pt"
    cut_off(workspace, trial, path, 3)
    path.write_bytes(path.read_bytes()[:size])
    *rows, _ = unlearn(workspace, trial, Wish().checkpointer(path))
    assert [columns(row) for row in rows] == expected  # type: ignore[arg-type]


def test_a_checkpoint_of_another_trial_or_ahead_of_a_lost_row_is_not_used(
    workspace: Workspace, tmp_path: Path
) -> None:
    path, trial = tmp_path / "last.pt", config("gradient_ascent")
    cut_off(workspace, trial, path, 3)
    rows = list(unlearn(workspace, trial, Wish().checkpointer(path)))
    assert [getattr(row, "status", None) or row["update"] for row in rows] == [2, 4, "complete"], (
        "row 2 would be lost"
    )
    other = config("gradient_ascent", seed=6)
    expected, _ = run(workspace, other)
    *found, _ = unlearn(workspace, other, Wish().checkpointer(path, (2,)))
    assert [columns(row) for row in found] == expected[1:]  # type: ignore[arg-type]


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    wish = Wish(at=1)
    *rows, ended = unlearn(
        workspace, config("gradient_ascent"), wish.checkpointer(tmp_path / "file" / "last.pt")
    )
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    assert len(rows) == 2
    assert wish.saved == []
    assert "no checkpoint of update 1" in wish.failed[0]


def test_kept_weights_load_as_the_model_they_are(workspace: Workspace, tmp_path: Path) -> None:
    run(workspace, config("gradient_ascent"))
    about = save_weights(workspace.policy.weights(), tmp_path / "best" / "0000-4.safetensors")
    assert about["bytes"] == (tmp_path / "best" / "0000-4.safetensors").stat().st_size
    expected = weights(workspace)
    workspace.reset()
    load_policy(workspace.policy, tmp_path / "best" / "0000-4.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(weights(workspace), expected, strict=True))
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


class _Shelf:
    """Another machine's disk, under a clock of the test's."""

    def __init__(
        self, folder: Path, lasts_s: float, clock: list[float], failing: bool = False
    ) -> None:
        self.folder, self.lasts_s, self.clock, self.failing = folder, lasts_s, clock, failing
        self.asked = 0
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        for path in self.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes() if wanted(path.name) else b"")

    def store(self, path: Path) -> None:
        self.asked += 1
        self.clock[0] += self.lasts_s
        if self.failing:
            raise OSError("it does not answer")
        (self.folder / path.name).write_bytes(path.read_bytes())

    def drop(self, path: Path) -> None:
        (self.folder / path.name).unlink()


def _shelved(path: Path, shelf: _Shelf, wish: Wish, known: tuple[int, ...] = ()) -> Checkpoints:
    return Checkpoints(
        path, 1.0, frozenset(known), lambda update: update == wish.at, wish.restored.append,
        wish.saved.append, wish.failed.append, shelf=shelf,
    )  # fmt: skip


def test_it_goes_on_on_another_machine(tiny_study: StudySpec, tmp_path: Path) -> None:
    """The folder it was written to is gone with its machine; the shelf has it."""
    trial = config("ascent_kl_in_distribution", evaluate_at=(2, 4))
    first = fresh(tiny_study)
    expected, _ = run(first, trial)
    shelf, wish = _Shelf(tmp_path / "shelf", 0.0, [0.0]), Wish(3)
    before = []
    for row in unlearn(
        fresh(tiny_study), trial, _shelved(tmp_path / "one" / "last.pt", shelf, wish)
    ):
        assert not isinstance(row, Ended)
        if row["update"] == 4:
            break
        before.append(row)
    wish = Wish()
    checkpointer = _shelved(
        tmp_path / "two" / "last.pt", shelf, wish, tuple(row["update"] for row in before)
    )
    rows = [
        row for row in unlearn(fresh(tiny_study), trial, checkpointer) if not isinstance(row, Ended)
    ]
    assert wish.restored == [3]
    assert [columns(row) for row in [*before, *rows]] == [columns(row) for row in expected]


@pytest.mark.parametrize("failing", [False, True])
def test_checkpoints_take_no_more_than_a_tenth_of_the_time(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    """Updates of 1 s, a storage that takes 3 s (or fails after 3 s): asked every 30 s, not every
    second."""
    clock = [0.0]
    monkeypatch.setattr("ray_unlearn.unlearn.checkpoint.time.monotonic", lambda: clock[0])
    trial = config("gradient_ascent", steps=100, evaluate_at=(100,))
    shelf, wish = _Shelf(tmp_path / "shelf", 3.0, clock, failing), Wish()
    checkpointer = _shelved(tmp_path / "last.pt", shelf, wish)
    between = checkpointer.between_updates

    def tick(state: Any) -> None:
        clock[0] += 1.0
        between(state)

    checkpointer.between_updates = tick  # type: ignore[method-assign]
    assert isinstance(list(unlearn(workspace, trial, checkpointer))[-1], Ended)
    assert shelf.asked == 4, "at 1 s, then 30 s after each began"
    assert len(wish.failed) == failing, "said once"
