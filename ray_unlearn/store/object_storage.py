"""A prefix of an object store as a storage, through obstore.

obstore makes requests again that fail for a reason that may pass (server errors, throttling,
connections without an answer), with growing pauses.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from ray_unlearn.environment import REAL, Environment
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.object_access import object_store_at
from ray_unlearn.store.stored_file import Stored, checked_name, is_inside

PATIENCE_S = 120.0
"""Seconds for which a storage that answers with server errors, or not at all, is asked again."""
CHUNK_BYTES = 8 * 2**20
CONFLICTS = 3


class ObjectStorage:
    """A `storage.Storage` below an address in an object store.

    It has nothing but its address until it is used, so it can be sent to other machines.

    Args:
        url: the address (see `storage.checked_url`).
        environment: makes the names of drafts.
        store: what answers instead of the server at the address: an object with obstore's methods.
    """

    remote = True

    def __init__(self, url: str, environment: Environment = REAL, store: Any = None) -> None:
        self.url = url
        self.patience_s = PATIENCE_S
        self._environment = environment
        self._given = store
        self._stores: dict[float, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle, without connections."""
        return vars(self) | {"_stores": {}}

    @contextmanager
    def _asked(self, what: str) -> Iterator[Any]:
        """The store; its errors become OSErrors that say what to do.

        Raises:
            FileNotFoundError: there is no such object (obstore's own).
            OSError: the store fails, and failed for `patience_s`.
        """
        from obstore.exceptions import (
            BaseError,
            NotSupportedError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        try:
            yield self._store()
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise OSError(
                f"{self.url}: {what}: {_in_short(error)}; are there credentials for it here "
                "(environment, profile, or the machine's identity), and may they read, write, list "
                "and delete there?"
            ) from None
        except (NotSupportedError, NotImplementedError) as error:
            raise OSError(
                f"{self.url}: {what}: {_in_short(error)}; this store cannot do what a study needs: "
                "to create an object only if it is absent"
            ) from None
        except BaseError as error:
            raise OSError(
                f"{self.url}: {what}: {_in_short(error)}; is there such a bucket, are there "
                "credentials for it here, and is the server reachable (AWS_ENDPOINT_URL, region, "
                "network)?"
            ) from None

    def _store(self) -> Any:
        if self._given is not None:
            return self._given
        if self.patience_s not in self._stores:
            patience = timedelta(seconds=self.patience_s)
            self._stores[self.patience_s] = object_store_at(self.url, patience)
        return self._stores[self.patience_s]

    def files(self, under: str = "", after: str = "") -> list[Stored]:
        """See `storage.Storage`; leaves out names that this package cannot have written."""
        if under:
            checked_name(under)
        with self._asked(f"listing {under or 'it'}") as store:
            pages = store.list(under or None, offset=after or None)
            found = [_stored(about) for page in pages for about in page]
        inside = (stored for stored in found if is_inside(stored.name))
        return sorted(inside, key=lambda stored: stored.name)

    def about(self, name: str) -> Stored:
        """See `storage.Storage`."""
        checked_name(name)
        with self._asked(f"looking at {name}") as store:
            return _stored(store.head(name))

    def read(self, name: str) -> bytes:
        """See `storage.Storage`."""
        checked_name(name)
        with self._asked(f"reading {name}") as store:
            return bytes(store.get(name).bytes())

    def write(self, name: str, content: bytes) -> None:
        """See `storage.Storage`."""
        checked_name(name)
        with self._writing(name) as store:
            store.put(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """See `storage.Storage`.

        A request whose answer was lost is made again, and then finds the object with this content.
        """
        from obstore.exceptions import AlreadyExistsError

        checked_name(name)
        for _ in range(CONFLICTS):
            with self._writing(name) as store:
                try:
                    store.put(name, content, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError as error:
                    conflict = _in_short(error)
            with suppress(FileNotFoundError):  # S3 answers so, too, while another one is writing it
                return self.read(name) == content
        raise OSError(f"{self.url}: creating {name}: {conflict}, and is not there; try again")

    def exchange(self, name: str, before: bytes, after: bytes) -> bool:
        """See `storage.Storage`."""
        from obstore.exceptions import PreconditionError

        checked_name(name)
        with self._writing(name) as store:
            found = store.get(name)
            if bytes(found.bytes()) != before:
                return False
            version = {key: found.meta[key] for key in ("e_tag", "version") if found.meta[key]}
            try:
                store.put(name, after, mode=version, use_multipart=False)
            except PreconditionError:
                return False
        return True

    def put(self, path: Path, name: str) -> None:
        """See `storage.Storage`."""
        checked_name(name)
        path.stat()  # a file that is gone is not a missing bucket
        with self._writing(name) as store:
            store.put(name, path)

    def fetch(self, name: str, path: Path) -> None:
        """See `storage.Storage`."""
        checked_name(name)
        with (
            self._asked(f"reading {name}") as store,
            whole_file(path, self._environment) as draft,
            open(draft, "wb") as file,
        ):
            for chunk in store.get(name).stream(min_chunk_size=CHUNK_BYTES):
                file.write(chunk)

    def remove(self, name: str) -> None:
        """See `storage.Storage`."""
        checked_name(name)
        try:
            with self._asked(f"deleting {name}") as store:
                store.delete(name)
        except FileNotFoundError:
            return

    @contextmanager
    def _writing(self, name: str) -> Iterator[Any]:
        try:
            with self._asked(f"writing {name}") as store:
                yield store
        except FileNotFoundError as error:
            raise OSError(
                f"{self.url}: writing {name}: {_in_short(error)}; make the bucket first, or "
                "correct its name"
            ) from None


def _stored(about: Any) -> Stored:
    return Stored(about["path"], about["size"], about["last_modified"].timestamp())


def _in_short(error: Exception) -> str:
    """obstore's message without the dump of its source."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())
