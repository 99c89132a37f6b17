"""Documents as token sequences: cut, padded or packed, masked, split into halves, cached by
content.

Shapes: N sequences of T tokens, D documents. A target is a token with a predecessor in its own
document's sequence; there are N x (T - 1) places for targets, and `target_mask` says which are
real. Padding is never a target, nor is a document's first token.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.demo import DOMAINS
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_spec import SPLITS, DataSpec, ModelSpec
from ray_unlearn.store.schema import HALVES
from ray_unlearn.unlearn.model import cache_folder, load_tokenizer
from ray_unlearn.unlearn.sources import demo_domain, read_documents

EVALUATED = {
    "forget": "forget",
    "approximate": "approximate",
    "retain": "retain_heldout",
    "general": "general_evaluation",
}
"""Evaluated set -> the split it is measured on."""

_LAYOUT_VERSION = 1


@dataclass(frozen=True)
class TokenSet:
    """One split as arrays; picklable, and shared between processes without copying."""

    input_ids: NDArray[np.int32]
    """[N, T]"""
    document: NDArray[np.int32]
    """[N, T]: index of the token's document; -1 is padding."""
    compressed_bytes: NDArray[np.int32]
    """[D]: length of the document's text after zlib."""
    selection: NDArray[np.bool_]
    """[D]: True for the selection half, False for the reporting half."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def target_mask(self) -> NDArray[np.bool_]:
        """[N, T - 1]: True where token t + 1 is predicted from token t of the same document."""
        return (self.document[:, 1:] == self.document[:, :-1]) & (self.document[:, 1:] >= 0)

    @cached_property
    def position_ids(self) -> NDArray[np.int64] | None:
        """[N, T], restarting at each document of a packed sequence; None where no sequence holds
        two documents."""
        start = np.zeros(self.document.shape, dtype=bool)
        start[:, 1:] = (self.document[:, 1:] != self.document[:, :-1]) & (self.document[:, 1:] >= 0)
        if not start.any():
            return None
        index = np.arange(self.document.shape[1], dtype=np.int64)
        return index - np.maximum.accumulate(np.where(start, index, 0), axis=1)

    @cached_property
    def target_document(self) -> NDArray[np.int32]:
        """[targets]: document of each real target, in sequence order."""
        return self.document[:, 1:][self.target_mask]


@dataclass(frozen=True)
class StudyData:
    """All splits of one domain, and what the label makers need to know of the vocabulary."""

    domain: str
    digest: str
    splits: dict[str, TokenSet]
    allowed_labels: NDArray[np.int32]
    """Token ids that are not special: random labels are drawn from these."""

    def evaluated(self, name: str) -> TokenSet:
        """The token set that metrics named `name` (forget, approximate, retain, general) are
        measured on."""
        return self.splits[EVALUATED[name]]


def prepare(
    spec: DataSpec,
    model: ModelSpec,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> StudyData:
    """Read, check, tokenise and cut all splits; the arrays are cached by the hash of all that
    decides them.

    Args:
        spec: sources, sequence length and layout.
        model: whose tokenizer is used.
        cache: folder for tokenised data; default `token_cache()`.
        say: told what is going on.

    Raises:
        UserError: whatever `read_documents` finds; a document of fewer than two tokens; documents
            shared between two splits; a half (selection, reporting) of an evaluated split without
            documents.
    """
    documents = read_documents(spec)
    _refuse_overlap(documents)
    tokenizer = load_tokenizer(model)
    layout = spec.model_dump(include={"sequence_length", "layout", "max_sequences_per_document"})
    content = {
        name: [text_hash(document.text) for document in split] for name, split in documents.items()
    }
    key = digest([_LAYOUT_VERSION, layout, content, tokenizer_digest(tokenizer)], length=32)
    path = (cache or token_cache()) / f"{key}.npz"
    if path.exists():
        splits = _load(path)
    else:
        say("tokenising")
        splits = {
            name: tokenised(split, tokenizer, spec, name) for name, split in documents.items()
        }
        _save(path, splits)
    _check_halves(splits)
    special = set(tokenizer.all_special_ids)
    allowed = np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
    domain = spec.domain or DOMAINS[demo_domain(spec.source or "")]
    return StudyData(domain, key, splits, allowed)


def token_cache() -> Path:
    """Where tokenised data is kept."""
    return cache_folder() / "tokens"


def tokenised(documents: list[Document], tokenizer: Any, spec: DataSpec, name: str) -> TokenSet:
    """Documents -> sequences of `sequence_length` tokens.

    A document is cut into chunks of at most `sequence_length` tokens; a last chunk of one token has
    no target and is left out. `pad`: one chunk per sequence, padded on the right. `pack`: chunks
    share sequences (first fit); a chunk is never cut again, so both layouts have the same targets.

    Raises:
        UserError: a document of fewer than two tokens.
    """
    length, most = spec.sequence_length, spec.max_sequences_per_document
    chunks: list[tuple[int, list[int]]] = []
    compressed = np.zeros(len(documents), dtype=np.int32)
    encoded = tokenizer(
        [document.text for document in documents], add_special_tokens=True, verbose=False
    )["input_ids"]
    for index, (document, ids) in enumerate(zip(documents, encoded, strict=True)):
        if len(ids) < 2:
            raise UserError(
                f"data.splits.{name}: document {document.id!r} has {len(ids)} token(s), and nothing to predict; "
                "remove it or join it to another"
            )
        kept = ids[: most * length] if most else ids
        text = document.text if len(kept) == len(ids) else tokenizer.decode(kept)
        compressed[index] = len(zlib.compress(text.encode()))
        pieces = [kept[start : start + length] for start in range(0, len(kept), length)]
        chunks += [(index, piece) for piece in pieces if len(piece) > 1]
    rows = [[chunk] for chunk in chunks] if spec.layout == "pad" else _first_fit(chunks, length)
    pad = (
        tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else (tokenizer.eos_token_id or 0)
    )
    input_ids = np.full((len(rows), length), pad, dtype=np.int32)
    owner = np.full((len(rows), length), -1, dtype=np.int32)
    for row, members in enumerate(rows):
        start = 0
        for index, piece in members:
            input_ids[row, start : start + len(piece)] = piece
            owner[row, start : start + len(piece)] = index
            start += len(piece)
    halves = np.array([in_selection_half(document.text) for document in documents])
    return TokenSet(input_ids, owner, compressed, halves)


def _first_fit(
    chunks: list[tuple[int, list[int]]], length: int
) -> list[list[tuple[int, list[int]]]]:
    """First fit, but never two chunks of one document side by side: they would be one document to
    the mask."""
    rows: list[list[tuple[int, list[int]]]] = []
    room: list[int] = []
    open_from = 0
    for index, piece in chunks:
        for row in range(open_from, len(rows)):
            if room[row] >= len(piece) and rows[row][-1][0] != index:
                break
        else:
            row = len(rows)
            rows.append([])
            room.append(length)
        rows[row].append((index, piece))
        room[row] -= len(piece)
        while open_from < len(rows) and room[open_from] < 2:
            open_from += 1
    return rows


def text_hash(text: str) -> str:
    """Hash of a document; white space is folded, so a re-wrapped copy is still the same
    document."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def in_selection_half(text: str) -> bool:
    """A fixed coin per document: the same half in every study, whatever else the split holds."""
    return int(text_hash(text)[-1], 16) % 2 == 0


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of what decides tokenisation."""
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return digest(tokenizer.backend_tokenizer.to_str())
    return digest([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])


def _refuse_overlap(documents: dict[str, list[Document]]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name in SPLITS:
        for document in documents[name]:
            other, other_id = seen.setdefault(text_hash(document.text), (name, document.id))
            if other != name:
                raise UserError(
                    f"data: document {document.id!r} of `{name}` is also in `{other}` (as {other_id!r}); "
                    "splits must not share documents: remove it from one of them"
                )


def _check_halves(splits: dict[str, TokenSet]) -> None:
    for name in EVALUATED.values():
        if name == "forget":
            continue
        for half, chosen in zip(
            HALVES, (splits[name].selection, ~splits[name].selection), strict=True
        ):
            if not chosen.any():
                raise UserError(
                    f"data.splits.{name}: its {half} half has no documents ({len(chosen)} in all); give more documents"
                )


def _save(path: Path, splits: dict[str, TokenSet]) -> None:
    fields = ("input_ids", "document", "compressed_bytes", "selection")
    arrays = {
        f"{name}.{field}": getattr(split, field)
        for name, split in splits.items()
        for field in fields
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.savez_compressed(file, **arrays)
        os.replace(file.name, path)
    except OSError as error:
        raise UserError(
            f"{path}: the tokenised data cannot be cached: {error}; free space or set RAY_UNLEARN_CACHE"
        ) from None


def _load(path: Path) -> dict[str, TokenSet]:
    fields = ("input_ids", "document", "compressed_bytes", "selection")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: TokenSet(*(arrays[f"{name}.{field}"] for field in fields)) for name in SPLITS}
