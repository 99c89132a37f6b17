"""A file in a storage, and the names that a file may have there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stored:
    """A file in a storage."""

    name: str
    """Name below the study, with `/` between its parts."""
    bytes: int
    modified: float
    """Seconds since the epoch, by the storage's own clock."""


def is_inside(name: str) -> bool:
    """Whether the name of a file or folder is below the study."""
    return "\0" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def checked_name(name: str) -> str:
    """The name of a file or folder, if it is inside the study.

    Names may come from a ledger that another person has written.

    Raises:
        PermissionError: the name is absolute, or leads out of the study.
    """
    if not is_inside(name):
        raise PermissionError(
            f"{name!r} is outside the study, and is neither read nor deleted; who wrote that into "
            "its ledger? See `ray-unlearn verify`"
        )
    return name
