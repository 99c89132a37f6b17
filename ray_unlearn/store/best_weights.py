"""A check that the best weights are the ones that were written (I5 of `verify`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_unlearn.spec.given_file import json_value
from ray_unlearn.store.event import BestWeightsKept
from ray_unlearn.store.record import Trial
from ray_unlearn.store.schema import row_key
from ray_unlearn.store.storage import Storage, file_sha256, local_file


def best_weights_problems(
    storage: Storage, kept: BestWeightsKept | None, trials: Mapping[int, Trial], *, running: bool
) -> Iterator[str]:
    """Problems of the weights that the newest `BestWeightsKept` names (I5).

    Args:
        storage: the study's storage; names in the event are below it.
        kept: the event; None if no weights were kept.
        trials: the ledger's trials.
        running: whether a writer may have stored better weights since the ledger was read.
    """
    if kept is None:
        return
    number, name, kept_key = kept.number, kept.file, (kept.update, kept.strength)
    expected = (kept.bytes, kept.sha256)
    if number not in trials or kept_key not in map(row_key, trials[number].rows):
        yield (
            f"I5: {name}: weights of trial {number}, update {kept.update}, of which there is no row"
        )
    if name.startswith("/") or ".." in name.split("/"):
        yield f"I5: {name}: is outside the study directory"
        return
    try:
        with local_file(storage, name) as path:
            found = (path.stat().st_size, file_sha256(path))
            fault = safetensors_fault(path)
    except FileNotFoundError:
        if not running:
            yield f"I5: {name}: the best weights are gone; restore the file from a copy"
        return
    except OSError as error:
        yield f"I5: {name}: cannot be read: {error}"
        return
    if found != expected:
        what = (
            f"{found[0]} bytes instead of {expected[0]}"
            if found[0] != expected[0]
            else "its sha256 differs"
        )
        yield f"I5: {name}: is not the file that was written: {what}; restore it from a copy"
    if fault:
        yield f"I5: {name}: is no whole safetensors file: {fault}"


def safetensors_fault(path: Path) -> str:
    """The fault in the layout of a safetensors file; empty if there is none.

    The layout is: the length of the JSON header in eight bytes, little-endian; the header, tensors
    with their `data_offsets`; the data.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"a header of {length} bytes does not fit into {size}"
        content = file.read(length)
    try:
        header = json_value(content)
        spans = [_span(entry) for name, entry in header.items() if name != "__metadata__"]
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError):
        return "its header cannot be read"
    data = size - 8 - length
    if any(not 0 <= begin <= end <= data for begin, end in spans):
        return "a tensor is outside the file"
    if max((end for _, end in spans), default=0) != data:
        return "the data do not end with the file"
    return ""


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    return int(begin), int(end)
