"""Files that somebody else has written: every reader gives the right result or one of our errors.

No traceback, no hang, no file touched outside the study, nothing run, nothing printed that a
terminal obeys (docs/security.md). `python benchmarks/fuzz.py` tries the same for as long as it is
told to; what it finds is kept in tests/fixtures/hostile and replayed here.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from entrances import BY_NAME, ENTRANCES, called, made_hostile, world
from guarded import BrokenPromise, command, controls, guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import REPOSITORY

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import MOST_LEVELS, given_bytes, json_value
from ray_unlearn.spec.printable import MOST_CHARACTERS, printable
from ray_unlearn.store.storage import FolderStorage

KEPT = REPOSITORY / "tests/fixtures/hostile"
EXAMPLES = 2
"""Of each entrance; the fuzzer makes thousands."""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that each example gets a copy of, with the network out of reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield world(tmp_path_factory.mktemp("hostile") / "first")


def copied(first: Path) -> Path:
    copy = first.parent.parent / "now"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(first.parent, copy, symlinks=True)
    place = copy / "world"
    for path in (place / "mine.yaml", place / "study/study.yaml"):
        path.write_text(path.read_text().replace(str(first), str(place)))
    return place


QUICK = [entrance for entrance in ENTRANCES if len(entrance.calls) > len(entrance.slow)]


@pytest.mark.parametrize("entrance", QUICK, ids=lambda entrance: entrance.name)
def test_a_hostile_file_is_read_right_or_refused(entrance, first: Path) -> None:
    quick = [name for name in entrance.calls if name not in entrance.slow]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=False), name=st.sampled_from(quick))
    def example(random: Random, name: str) -> None:
        place = copied(first)
        path = made_hostile(entrance, place, random)
        called(entrance, place, name, f"{entrance.name}, {path.name}: {name}")

    example()


INDEX = json.loads((KEPT / "index.json").read_text())


@pytest.mark.parametrize("kept", INDEX, ids=lambda kept: kept["file"])
def test_what_once_broke_a_reader_breaks_it_no_more(kept: dict[str, str], first: Path) -> None:
    place = copied(first)
    target = place / kept["as"]
    target.unlink(missing_ok=True)
    if kept["file"] == "link":
        target.symlink_to(kept["to"].format(outside=place.parent / "outside"))
    else:
        shutil.copy(KEPT / kept["file"], target)
    called(BY_NAME[kept["entrance"]], place, kept["call"], kept["did"])


@pytest.mark.parametrize("entrance", QUICK, ids=lambda entrance: entrance.name)
def test_the_files_as_they_are_pass(entrance, first: Path) -> None:
    """The tests above would pass if everything were refused."""
    place = copied(first)
    for name, call in entrance.calls.items():
        if name not in entrance.slow:
            code, said = guarded(lambda call=call: _not_refused(call(place)), place, name)
            assert code in (None, 0), said


def _not_refused(call) -> None:
    try:
        call()
    except UserError as error:
        pytest.fail(f"refused: {error}")


def test_a_traceback_a_file_outside_and_a_program_are_noticed(first: Path) -> None:
    """The guard itself: a promise that cannot be broken in a test is none."""
    place = copied(first)
    victim = place.parent / "outside/victim.txt"
    for call, said in {
        lambda: {}["a"]: "KeyError",
        lambda: victim.write_text("mine"): "outside",
        lambda: os.posix_spawn("/bin/true", ["true"], {}): "posix_spawn",
        lambda: print("\x1b[31mred"): "printed",
        command("status", place / "nowhere", "--every", "x", "--json"): "",
    }.items():
        if said:
            with pytest.raises(BrokenPromise, match=said):
                guarded(call, place, "guard")
        else:
            guarded(call, place, "guard")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\x9b2J", "\\x9b2J"),
        ("a\tb\nc", "a\tb\nc"),
        ("\u00e9 \u4e2d \u2264 \u2501 \U0001f600", "\u00e9 \u4e2d \u2264 \u2501 \U0001f600"),
    ],
)
def test_only_what_does_something_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(UserError(text)) == shown
    assert controls(shown) == []


def test_a_message_stays_short() -> None:
    said = str(UserError(f"first line\nunknown key {'x' * 10**6}; remove it"))
    assert len(said) < MOST_CHARACTERS + 200
    assert said.startswith("first line\nunknown key x")
    assert said.endswith("remove it")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * (MOST_LEVELS + 2) + "]" * (MOST_LEVELS + 2),
        "9" * 5000,
        '{"a": 100000000000000000000000}',
        b"\xff",
        "{",
    ],
)
def test_json_that_no_reader_could_follow_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_value(text)


def test_json_of_our_own_files_is_read() -> None:
    assert json_value(b'\xef\xbb\xbf{"a": [1, -2.5e3, null, 18446744073709551615]}') == {
        "a": [1, -2500.0, None, 2**64 - 1]
    }


def test_a_device_a_pipe_and_a_file_that_is_too_large_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            given_bytes(path)
    with pytest.raises(OSError, match="5 bytes, more than 4"):
        given_bytes(tmp_path / "large", 4)
    assert given_bytes(tmp_path / "large", 5) == b"12345"


def test_a_link_to_a_file_outside_is_not_read(tmp_path: Path) -> None:
    """Weights that are a link to the user's key would be sent along with the study."""
    study = tmp_path / "study/trials/best"
    study.mkdir(parents=True)
    (tmp_path / "key").write_text("secret")
    (study / "0001-1.safetensors").symlink_to(tmp_path / "key")
    storage, name = FolderStorage(tmp_path / "study"), "trials/best/0001-1.safetensors"
    for read in (storage.read, lambda name: storage.fetch(name, tmp_path / "copy")):
        with pytest.raises(PermissionError, match="symbolic link"):
            read(name)
    assert not (tmp_path / "copy").exists()
