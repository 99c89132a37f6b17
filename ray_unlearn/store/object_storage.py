"""A prefix of an object store as a storage, through pyarrow's filesystems.

Requests that fail for a reason that may pass are made again, with growing pauses.
"""

import logging
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.object_creation import create_object, s3_server
from ray_unlearn.store.stored_file import Stored, checked_name, is_inside

PATIENCE_S = 120.0
"""Seconds for which a storage that answers with server errors, or not at all, is asked again."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0
ANSWER_S = 30.0
"""Seconds without an answer after which a connection is dropped and the request made again."""

PASSING = {408, 409, 425, 429}
"""HTTP statuses below 500 that do not depend on the request, so that it is made again."""
FINAL = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|"
    r"SIGNATURE_DOES_NOT_MATCH|NoSuchBucket|no such host|Could ?n.t resolve host|PERMISSION_DENIED|"
    r"UNAUTHENTICATED|InvalidAccessKeyId|AuthFailure|not support",
    re.IGNORECASE,
)
STATUS = re.compile(r"(?:HTTP|with) status (\d+)")
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|UNAUTHENTICATED|PERMISSION|credential|"
    r"(?<![\w/.:-])40[13](?![\w/.-])",
    re.IGNORECASE,
)
"""Matches an error about credentials.

A number counts as a status only on its own: 403.8 ms, a port and a name are not.
"""

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class ObjectStorage:
    """A `storage.Storage` below an address in an object store.

    It has nothing but its address until it is used, so it can be sent to other machines.
    """

    remote = True

    def __init__(self, url: str, environment: Environment = REAL) -> None:
        self.url = url
        self._environment = environment
        self.patience_s = PATIENCE_S
        self._answer_s = ANSWER_S
        parts = urlsplit(url)
        self._base = (
            parts.netloc.rpartition("@")[2] + parts.path if parts.scheme in ("s3", "gs") else ""
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without connections."""
        return {name: value for name, value in vars(self).items() if name != "_remote"}

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        """pyarrow's filesystem, and the path of the study in it."""
        parts = urlsplit(self.url)
        if parts.scheme == "s3":
            return _s3(dict(parse_qsl(parts.query)), self._answer_s), self._base
        filesystem, path = fs.FileSystem.from_uri(self.url)
        if parts.scheme == "gs" and not parts.query and not parts.username:
            filesystem = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=self._answer_s))
        return filesystem, path

    def files(self, under: str = "") -> list[Stored]:
        """See `storage.Storage`; leaves out names that this package cannot have written."""
        if under:
            checked_name(under)

        def ask() -> list[Stored]:
            filesystem, base = self._remote
            where = f"{base}/{under}".rstrip("/")
            entries = filesystem.get_file_info(
                fs.FileSelector(where, recursive=True, allow_not_found=True)
            )
            files = [entry for entry in entries if entry.type == fs.FileType.File]
            found = [
                Stored(e.path[len(base) + 1 :], e.size or 0, (e.mtime_ns or 0) / 1e9) for e in files
            ]
            return sorted(
                (stored for stored in found if is_inside(stored.name)),
                key=lambda stored: stored.name,
            )

        return self._patiently(ask, f"listing {under or 'it'}")

    def read(self, name: str) -> bytes:
        """See `storage.Storage`."""
        checked_name(name)

        def ask() -> bytes:
            filesystem, base = self._remote
            with filesystem.open_input_stream(f"{base}/{name}", compression=None) as stream:
                return bytes(stream.read())

        return self._patiently(ask, f"reading {name}")

    def write(self, name: str, content: bytes) -> None:
        """See `storage.Storage`."""
        checked_name(name)

        def ask() -> None:
            filesystem, base = self._remote
            stream = filesystem.open_output_stream(f"{base}/{name}", compression=None)
            stream.write(content)
            stream.close()  # not in a `finally`: closing makes the object, whole

        self._patiently(ask, f"writing {name}")

    def create(self, name: str, content: bytes) -> bool:
        """See `storage.Storage`.

        A request whose answer was lost is made again, and then finds the object with this content.
        """
        checked_name(name)
        ask = partial(create_object, self.url, name, content, self._answer_s)
        return self._patiently(ask, f"creating {name}") or self.read(name) == content

    def put(self, path: Path, name: str) -> None:
        """See `storage.Storage`."""
        checked_name(name)

        def ask() -> None:
            filesystem, base = self._remote
            with open(path, "rb") as file:
                stream = filesystem.open_output_stream(f"{base}/{name}", compression=None)
                shutil.copyfileobj(file, stream, 8 * 2**20)
                stream.close()  # not in a `finally`, as in `write`

        self._patiently(ask, f"writing {name}")

    def fetch(self, name: str, path: Path) -> None:
        """See `storage.Storage`."""
        checked_name(name)

        def ask() -> None:
            filesystem, base = self._remote
            with (
                whole_file(path, self._environment) as draft,
                filesystem.open_input_stream(f"{base}/{name}", compression=None) as stream,
                open(draft, "wb") as file,
            ):
                shutil.copyfileobj(stream, file, 8 * 2**20)

        self._patiently(ask, f"reading {name}")

    def remove(self, name: str) -> None:
        """See `storage.Storage`."""
        checked_name(name)

        def ask() -> None:
            filesystem, base = self._remote
            try:
                filesystem.delete_file(f"{base}/{name}")
            except FileNotFoundError:
                return

        self._patiently(ask, f"deleting {name}")

    def _patiently(self, ask: Callable[[], Answer], what: str) -> Answer:
        """The answer of `ask`, which is called again while its failure may pass.

        Raises:
            OSError: the failure lasted, or cannot pass.
        """
        deadline = self._environment.monotonic() + self.patience_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except (OSError, pa.ArrowException) as error:
                if _is_final(error) or self._environment.monotonic() + pause > deadline:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    raise OSError(f"{self.url}: {what}: {remedy(error)}") from None
                _log.info("%s: %s: %s; again in %.1f s", self.url, what, error, pause)
            # Jitter (Brooker 2015): many lanes that failed together do not retry together.
            self._environment.sleep(self._environment.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _s3(options: dict[str, str], answer_s: float) -> Any:
    """pyarrow's filesystem for S3, with server, region and credentials as the AWS tools find them.

    The SDK retries single requests.
    """
    endpoint, region = s3_server(options)
    scheme, _, host = (endpoint or "").partition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or options.get("scheme") or "https",
        region=region,
        connect_timeout=10,
        request_timeout=answer_s,
        allow_delayed_open=True,  # one request for a small object instead of three
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def _is_final(error: Exception) -> bool:
    """Whether asking again cannot help."""
    if isinstance(
        error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    ):
        return True
    if isinstance(error, OSError) and error.errno is not None and not _from_server(error):
        return True  # a local disk
    text = str(error)
    status = STATUS.search(text)
    if status is not None and int(status[1]) < 500:
        return int(status[1]) not in PASSING
    return FINAL.search(text) is not None


def _from_server(error: OSError) -> bool:
    return "AWS Error" in str(error) or "http" in str(error).lower()


def remedy(error: Exception) -> str:
    """A storage's error message, and what to do about it."""
    text = " ".join(str(error).split())
    if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|does not exist", text):
        return f"{text}; make the bucket first, or correct its name"
    if REFUSED.search(text):
        return (
            f"{text}; are there credentials for it here (environment, profile, or the machine's "
            "identity), and may they read, write, list and delete there?"
        )
    return f"{text}; is the server reachable from here (AWS_ENDPOINT_URL, region, network)?"
