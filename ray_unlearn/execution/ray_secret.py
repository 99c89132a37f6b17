"""Protection of a Ray that we start from other users of the machine: secret, sockets and code."""

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ray_unlearn.spec.errors import UserError

MODE = "RAY_AUTH_MODE"
ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
OWNER_ONLY = 0o600
OTHERS = 0o077


def private_token() -> None:
    """Make Ray's token file, readable by its owner alone, before `ray.init` starts a Ray.

    Ray uses tokens for a Ray that it starts, unless RAY_AUTH_MODE is set otherwise, but makes
    `~/.ray/auth_token` readable by everybody (2.60). A token in another place is left unchanged.

    Raises:
        UserError: the file cannot be made, or cannot be made private.
    """
    # Ray reads the mode when it is imported and takes `token` as done: if it was set after that,
    # it would turn nothing on.
    if os.environ.get(MODE, "").lower() == "token":
        del os.environ[MODE]
    if MODE in os.environ or any(map(os.environ.get, ELSEWHERE)):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if not path.exists():
            _make(path)
        about = path.stat()
        if about.st_uid == os.geteuid() and about.st_mode & OTHERS:
            path.chmod(OWNER_ONLY)
    except OSError as error:
        raise UserError(
            f"{path}: Ray's token cannot be kept private there: {error}; keep it in another file "
            "(`chmod 600`) that "
            "RAY_AUTH_TOKEN_PATH names, and set RAY_AUTH_MODE=token"
        ) from None


def private_folder() -> str | None:
    """Folder for Ray's sockets, logs and packages that only its owner can enter.

    Ray's own folder, /tmp/ray, is writable by everybody (2.60), so that others could replace our
    code there, with or without a token.

    Returns:
        None if RAY_TMPDIR is set.

    Raises:
        UserError: the folder cannot be made.
    """
    if os.environ.get("RAY_TMPDIR"):
        return None
    folder = (
        Path(tempfile.gettempdir()) / f"ray-{os.geteuid()}"
    )  # short, as a socket's path has at most 107 bytes
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        about = folder.lstat()
        mine = (
            stat.S_ISDIR(about.st_mode)
            and about.st_uid == os.geteuid()
            and not about.st_mode & OTHERS
        )
        outer = (
            str(folder) if mine else tempfile.mkdtemp(prefix="ray-")
        )  # another user made the folder first
        return f"{outer}/r"  # Ray makes the folder that it uses writable by everybody
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made: {error}; set RAY_TMPDIR to a folder with a short path "
            "that only you can enter"
        ) from None


def _make(path: Path) -> None:
    """Write a new token, whole; if another process is faster, its token counts."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as file:
            file.write(secrets.token_hex(32))  # as Ray makes it
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
