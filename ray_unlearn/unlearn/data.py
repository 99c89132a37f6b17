"""Documents as token sequences: cut, padded or packed, masked, halved and cached by content.

Shapes: N sequences of T tokens, D documents. A target is a token with a predecessor in its own
document's sequence; there are N x (T - 1) places for targets, and `target_mask` says which are
real. Padding is never a target, nor is a document's first token.
"""

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.demo import DOMAINS, cache_folder, demo_domain
from ray_unlearn.spec.data_spec import SPLITS, DataSpec
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import digest
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.schema import HALVED_SETS, Dealing
from ray_unlearn.unlearn.document_hash import in_selection_half, text_hash
from ray_unlearn.unlearn.former_digests import former_data_digest
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.sources import read_documents

EVALUATED = {
    "forget": "forget",
    "approximate": "approximate",
    "retain": "retain_heldout",
    "general": "general_evaluation",
}
"""Evaluated set -> the split it is measured on."""

HALVED_SPLITS = tuple(EVALUATED[name] for name in HALVED_SETS)
"""Splits whose documents are dealt to a selection and a reporting half."""

_CACHE_VERSION = 2
"""Raised when `tokenised` makes other arrays of the same input; 1 ignored white space."""


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
    """[D]: True for the selection half, False for the reporting half; by hash until a study's
    dealing is known (`StudyData.as_dealt`)."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def target_mask(self) -> NDArray[np.bool_]:
        """[N, T - 1]: True where token t + 1 is predicted from token t of the same document."""
        return (self.document[:, 1:] == self.document[:, :-1]) & (self.document[:, 1:] >= 0)

    @cached_property
    def position_ids(self) -> NDArray[np.int64] | None:
        """Positions [N, T] that restart at each document of a packed sequence.

        None if no sequence holds two documents.
        """
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
    split_digests: dict[str, str] = field(default_factory=dict)
    """What `digest` is made of, so that a changed split can be named."""
    former_digest: str = ""
    """`digest` as ledgers hold it that were begun before white space counted."""
    dealing: Dealing = "hash"
    """How documents come to their halves."""
    to_deal: bool = False
    """The vanilla model's losses are still to deal the halves (`halves.deal_halves`)."""

    @cached_property
    def packed(self) -> bool:
        """Whether documents share sequences anywhere."""
        return any(tokens.position_ids is not None for tokens in self.splits.values())

    def evaluated(self, name: str) -> TokenSet:
        """The token set of the metrics named `name`: forget, approximate, retain or general."""
        return self.splits[EVALUATED[name]]

    def as_dealt(self, dealing: Dealing, halves: Mapping[str, str]) -> "StudyData":
        """The data with the halves of a study.

        Args:
            dealing: as in the study's header.
            halves: as in `HalvesDealt`; empty where they were not dealt yet.
        """
        if dealing == "hash":
            return self
        data = replace(self, dealing=dealing, to_deal=not halves)
        return data.with_halves(halves) if halves else data

    def with_halves(self, halves: Mapping[str, str]) -> "StudyData":
        """The data with these halves, a character per document as in `HalvesDealt`."""
        splits = dict(self.splits)
        for name, letters in halves.items():
            selection = np.array([letter == "s" for letter in letters])
            assert selection.shape == splits[name].selection.shape, "other documents"
            splits[name] = replace(splits[name], selection=selection)
        return replace(self, splits=splits, to_deal=False)

    @property
    def halves(self) -> dict[str, str]:
        """Which half each document belongs to, as in `HalvesDealt`."""
        return {name: half_letters(self.splits[name].selection) for name in HALVED_SPLITS}


def half_letters(selection: NDArray[np.bool_]) -> str:
    """A character per document: `s` (selection) or `r` (reporting)."""
    return "".join("s" if chosen else "r" for chosen in selection)


def prepare(
    spec: DataSpec,
    model: ModelSpec,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> StudyData:
    """Read, check, tokenise and cut all splits.

    The arrays are cached by the hash of everything that decides them.

    Args:
        spec: sources, sequence length and layout.
        model: whose tokenizer is used.
        cache: folder for tokenised data; default `token_cache()`.
        say: called with each line of progress.

    Raises:
        UserError: whatever `read_documents` finds; a document of fewer than two tokens; documents
            shared between two splits; an evaluated split with one document, which leaves a half
            (selection, reporting) without any.
    """
    documents = read_documents(spec)
    _refuse_overlap(documents)
    tokenizer = load_tokenizer(model)
    path = (cache or token_cache()) / f"{_cache_key(spec, documents, tokenizer)}.npz"
    splits = _load(path)
    if splits is None:
        say("tokenising")
        splits = {
            name: tokenised(split, tokenizer, spec, name) for name, split in documents.items()
        }
        _save(path, splits)
    _check_halves(splits)
    special = set(tokenizer.all_special_ids)
    allowed = np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
    digests = {name: split_digest(documents[name], splits[name]) for name in SPLITS}
    return StudyData(
        spec.domain or DOMAINS[demo_domain(spec.source or "")],
        digest([digests, hashlib.sha256(allowed.tobytes()).hexdigest()], length=32),
        splits,
        allowed,
        digests,
        former_data_digest(spec, documents, tokenizer),
    )


def _cache_key(spec: DataSpec, documents: dict[str, list[Document]], tokenizer: Any) -> str:
    """Hash of everything that decides a `TokenSet`.

    That is every byte of text, the layout, the tokenizer, and the libraries that run it.
    """
    layout = spec.model_dump(include={"sequence_length", "layout", "max_sequences_per_document"})
    texts = {name: [_bytes_hash(d.text) for d in split] for name, split in documents.items()}
    libraries = [version("tokenizers"), version("transformers"), zlib.ZLIB_RUNTIME_VERSION]
    content = [_CACHE_VERSION, layout, texts, tokenizer_digest(tokenizer), libraries]
    return digest(content, length=32)


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
                f"data.splits.{name}: document {document.id!r} has {len(ids)} token(s), and "
                "nothing to predict; "
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
    """Pack chunks by first fit, but never two chunks of one document side by side.

    The mask would take them for one document.
    """
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


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything a tokenizer is saved as, the chat template alone left out.

    A vocabulary is not enough: normalisation, merges, post-processing and added tokens decide
    tokens too, and a slow tokenizer keeps them in files that only its class knows.
    """
    total = hashlib.sha256(type(tokenizer).__name__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not path.name.startswith("chat_template"):
                total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def split_digest(documents: list[Document], tokens: TokenSet) -> str:
    """Digest of what a split trains on or measures: token ids, their documents, and the texts.

    Made of the tokens themselves, so nothing that decides them can be forgotten. The texts count
    too: membership attacks compare with their compressed size.
    """
    total = hashlib.sha256(np.array(tokens.input_ids.shape).tobytes())
    for array in (tokens.input_ids, tokens.document):
        total.update(hashlib.sha256(array.tobytes()).digest())
    for document in documents:
        total.update(hashlib.sha256(document.text.encode()).digest())
    return total.hexdigest()[:32]


def _bytes_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_overlap(documents: dict[str, list[Document]]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name in SPLITS:
        for document in documents[name]:
            other, other_id = seen.setdefault(text_hash(document.text), (name, document.id))
            if other != name:
                raise UserError(
                    f"data: document {document.id!r} of `{name}` is also in `{other}` (as "
                    f"{other_id!r}); "
                    "splits must not share documents: remove it from one of them"
                )


def _check_halves(splits: dict[str, TokenSet]) -> None:
    for name in HALVED_SPLITS:
        count = len(splits[name].selection)
        if count < 2:
            raise UserError(
                f"data.splits.{name}: {count} document(s), and each half (selection, reporting) "
                "needs one; give more documents"
            )


def _save(path: Path, splits: dict[str, TokenSet]) -> None:
    fields = ("input_ids", "document", "compressed_bytes", "selection")
    arrays = {
        f"{name}.{field}": getattr(split, field)
        for name, split in splits.items()
        for field in fields
    }
    try:
        with whole_file(path) as draft, open(draft, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(
            f"{path}: the tokenised data cannot be cached: {error}; free space or set "
            "RAY_UNLEARN_CACHE"
        ) from None


def _load(path: Path) -> dict[str, TokenSet] | None:
    """The cached arrays; None if they are missing or damaged, so that they are made again."""
    fields = ("input_ids", "document", "compressed_bytes", "selection")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                name: TokenSet(*(arrays[f"{name}.{field}"] for field in fields)) for name in SPLITS
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
