"""A Ray that we start belongs to the user who started it: others can neither read its token, nor
use it without, nor reach its sockets and packages on disk."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_unlearn.execution.ray_secret import private_folder, private_token
from ray_unlearn.spec.errors import UserError

STUDY = """
import json, os, sys
import ray
os.environ.update(json.loads(sys.argv[1]))  # later than Ray reads it
os.umask(0o022)
from ray_unlearn.execution.ray_runtime import connected
from ray_unlearn.spec.operations import Operations
with connected(None, Operations()):
    from ray._private.worker import _global_node as node
    print(json.dumps({"gcs": node.gcs_address, "session": node.get_session_dir_path()}), flush=True)
    sys.stdin.readline()
"""
STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    print("nodes", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)))
except Exception as error:
    print("refused", error)
"""
RAY = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_TMPDIR")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory; nothing is said about tokens."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in RAY:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def _asked(gcs: str, **environment: str) -> str:
    """What somebody else hears from the head."""
    command = [sys.executable, "-c", STRANGER, gcs]
    return subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "late",
    [
        pytest.param({}, id="by default"),
        pytest.param(
            {"RAY_AUTH_MODE": "token"}, id="set after Ray was imported", marks=pytest.mark.slow
        ),
    ],
)
def test_our_own_ray_is_closed_to_others(home: Path, late: dict[str, str]) -> None:
    command = [sys.executable, "-c", STUDY, json.dumps(late)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as study:
        assert study.stdin is not None
        assert study.stdout is not None
        try:
            told: dict[str, Any] = json.loads(study.stdout.readline())
            token = home / ".ray" / "auth_token"
            assert (_mode(token), _mode(token.parent)) == (0o600, 0o700)
            assert _asked(told["gcs"], RAY_AUTH_MODE="token").startswith("nodes 1")
            assert "refused" in _asked(told["gcs"], RAY_AUTH_MODE="disabled")
            assert "refused" in _asked(told["gcs"], RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64)
            _closed_on_disk(Path(told["session"]), token.read_text())
        finally:
            study.stdin.close()
            study.wait(60)


def _closed_on_disk(session: Path, token: str) -> None:
    assert any(_mode(folder) & 0o077 == 0 for folder in session.parents), (
        "others can replace sockets and packages"
    )
    for path in session.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), f"{path.name} holds the token"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert token.encode() not in path.read_bytes()
        except OSError:
            continue


def test_a_token_that_others_can_read_is_made_private(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("t" * 64)
    path.chmod(0o644)
    private_token()
    assert _mode(path) == 0o600
    assert path.read_text() == "t" * 64, "a cluster may be running with it"


def test_a_new_token_is_never_readable_and_never_half_written(home: Path) -> None:
    before = os.umask(0)
    try:
        private_token()
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    first = path.read_text()
    assert _mode(path) == 0o600
    assert len(bytes.fromhex(first)) == 32
    private_token()
    assert path.read_text() == first
    assert [p.name for p in path.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(
    "said",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "t"}, {"RAY_AUTH_TOKEN_PATH": "/elsewhere"}],
)
def test_what_the_user_says_counts(
    home: Path, said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    private_token()
    assert not (home / ".ray").exists()
    assert {name: os.environ[name] for name in said} == said


def test_a_home_that_cannot_be_written(home: Path) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN_PATH"):
        private_token()


def test_a_folder_of_our_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(home))
    folder = private_folder()
    outer = home / f"ray-{os.geteuid()}"
    assert folder == f"{outer}/r"
    assert _mode(outer) == 0o700
    assert private_folder() == folder, "the next one too"
    outer.chmod(0o777)
    other = private_folder()
    assert other not in (None, folder), "somebody else may have made it"
    assert _mode(Path(str(other)).parent) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    assert private_folder() is None
