"""The data of a study: all splits as token sequences, with digests, halves and a cache.

Shapes: N sequences of T tokens, D documents; what a target is: `token_set`.
"""

import hashlib
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.demo import DOMAINS, cache_folder, demo_domain
from ray_unlearn.spec.data_spec import DataSpec, place_of
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import EvaluationSpec
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import digest
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.schema import HALVED_SETS, Dealing
from ray_unlearn.unlearn.alternatives import (
    ALTERNATIVE,
    MISMATCHED,
    alternative_documents,
    as_alternatives,
    mismatched_documents,
)
from ray_unlearn.unlearn.compared_answers import Owners, with_compared
from ray_unlearn.unlearn.conversations import written_out
from ray_unlearn.unlearn.duplicates import duplicate_findings
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.former_digests import former_data_digest
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.sources import read_documents, refuse_overlap
from ray_unlearn.unlearn.token_set import TokenSet

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


_log = logging.getLogger(__name__)


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
    findings: tuple[Finding, ...] = ()
    """What was found when the documents were read: blank rows, copies."""
    watched: tuple[str, ...] = ()
    """Names of `evaluation.sets`, each the name of its split too."""
    owners: Owners = field(default_factory=dict)
    """Of the splits of compared answers."""
    tokenizer: Any = None
    """To read what is generated; None where nothing is."""

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer: each is beside the text."""
        return tuple(sorted(self.tokenizer.all_special_ids))

    @cached_property
    def packed(self) -> bool:
        """Whether documents share sequences anywhere."""
        return any(tokens.position_ids is not None for tokens in self.splits.values())

    def evaluated(self, name: str) -> TokenSet:
        """The token set of the metrics named `name`: ours (forget ...), or of a watched set."""
        return self.splits[split_evaluated(name)]

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
    def notes(self) -> list[str]:
        """What whoever reads the study's results should know of its data."""
        return [str(finding) for finding in self.findings if finding.state != "ok"] + [
            f"{place_of(name)}: {full} of {len(tokens.selection)} answers reach the end of their "
            f"sequence of {tokens.input_ids.shape[1]} tokens and may be cut there; a larger "
            "`data.sequence_length` keeps them whole"
            for name, tokens in self.splits.items()
            if (full := tokens.full_answers)
        ]

    @property
    def halves(self) -> dict[str, str]:
        """Which half each document belongs to, as in `HalvesDealt`."""
        return {name: half_letters(self.splits[name].selection) for name in HALVED_SPLITS}


def split_evaluated(name: str) -> str:
    """The split that the metrics of a set are measured on."""
    return EVALUATED.get(name, name)


def half_letters(selection: NDArray[np.bool_]) -> str:
    """A character per document: `s` (selection) or `r` (reporting)."""
    return "".join("s" if chosen else "r" for chosen in selection)


def prepare(
    spec: DataSpec,
    model: ModelSpec,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    evaluation: EvaluationSpec | None = None,
    *,
    answers: Collection[str] = (),
) -> StudyData:
    """Read, check, tokenise and cut all splits and watched sets.

    The arrays are cached by the hash of everything that decides them.

    Args:
        spec: sources, sequence length and layout.
        model: whose tokenizer is used.
        cache: folder for tokenised data; default `token_cache()`.
        say: called with each line of progress.
        evaluation: its `sets`, and whether anything is generated; None: neither.
        answers: other answers that methods ask for (`methods.other_answers`): forget documents
            without `alternative` ones of their own get refusals, which are part of the methods and
            in no digest, as are `mismatched` ones.

    Raises:
        UserError: whatever `read_documents` and `written_out` find; a document without a target;
            documents shared between two splits; an evaluated split with one document, which leaves
            a half (selection, reporting) without any.
    """
    found_on_reading: list[Finding] = []
    sets = {} if evaluation is None else evaluation.sets
    documents = read_documents(spec, sets, found_on_reading.append)
    refuse_overlap(documents)
    findings = (*found_on_reading, *duplicate_findings(documents))
    tokenizer = load_tokenizer(model)
    own = alternative_documents(documents["forget"], "alternative" in answers)
    others = {ALTERNATIVE: own} if own[0] else {}
    if "mismatched" in answers:
        others[MISMATCHED] = mismatched_documents(documents["forget"], documents["retain"])
    documents, owners = with_compared(documents)
    folder = cache or token_cache()

    def arrays(of: dict[str, list[Document]], layout: DataSpec) -> dict[str, TokenSet]:
        path = folder / f"{_cache_key(layout, of, tokenizer)}.npz"
        found = _load(path, tuple(of))
        _log.info("tokens of %s: %s", ", ".join(of), path if found else "not cached, made now")
        if found is None:
            say("tokenising")
            found = {name: tokenised(each, tokenizer, layout, name) for name, each in of.items()}
            _save(path, found)
        return found

    documents = {
        name: written_out(split, spec, tokenizer, name) for name, split in documents.items()
    }
    splits = arrays(documents, spec)
    _check_halves(splits)
    special = set(tokenizer.all_special_ids)
    allowed = np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
    digests = {name: split_digest(documents[name], splits[name]) for name in documents}
    for kind, (alternatives, whose) in others.items():
        written = written_out(alternatives, spec, tokenizer, "forget")
        padded = spec.model_copy(update={"layout": "pad"})
        splits[kind] = as_alternatives(arrays({kind: written}, padded)[kind], whose)
        if kind == ALTERNATIVE and spec.splits["forget"].alternative is not None:
            digests[kind] = split_digest(written, splits[kind])
    return StudyData(
        spec.domain or DOMAINS[demo_domain(spec.source or "")],
        digest([digests, hashlib.sha256(allowed.tobytes()).hexdigest()], length=32),
        splits,
        allowed,
        digests,
        former_data_digest(spec, documents, tokenizer),
        findings=findings,
        watched=tuple(sets),
        owners=owners,
        tokenizer=tokenizer if evaluation is not None and evaluation.reads_tokenizer else None,
    )


def _cache_key(spec: DataSpec, documents: dict[str, list[Document]], tokenizer: Any) -> str:
    """Hash of everything that decides a `TokenSet`.

    That is every byte of text, where its answer begins, the layout, the tokenizer, and the
    libraries that run it. A chat template has become text by now.
    """
    layout = spec.model_dump(include={"sequence_length", "layout", "max_sequences_per_document"})
    texts = {name: [_content(d) for d in split] for name, split in documents.items()}
    libraries = [version("tokenizers"), version("transformers"), zlib.ZLIB_RUNTIME_VERSION]
    content = [_CACHE_VERSION, layout, texts, tokenizer_digest(tokenizer), libraries]
    if spec.chat_template is not None:
        content.append("the template writes special tokens")
    return digest(content, length=32)


def token_cache() -> Path:
    """Where tokenised data is kept."""
    return cache_folder() / "tokens"


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything a tokenizer is saved as, the chat template alone left out.

    A template counts where it is used, by the text that it writes (`_content`, `split_digest`).

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
    too: membership attacks compare with their compressed size. So do prompts, which are no targets.
    """
    total = hashlib.sha256(np.array(tokens.input_ids.shape).tobytes())
    for array in (tokens.input_ids, tokens.document):
        total.update(hashlib.sha256(array.tobytes()).digest())
    for document in documents:
        total.update(hashlib.sha256(document.text.encode()).digest())
    if tokens.prompt is not None:
        total.update(hashlib.sha256(tokens.prompt.tobytes()).digest())
    return total.hexdigest()[:32]


def _content(document: Document) -> str | list[Any]:
    """What of a document decides its tokens and targets."""
    text = hashlib.sha256(document.text.encode()).hexdigest()
    return text if document.prompt_length is None else [text, document.prompt_length]


def _check_halves(splits: dict[str, TokenSet]) -> None:
    for name in HALVED_SPLITS:
        count = len(splits[name].selection)
        if count < 2:
            raise UserError(
                f"data.splits.{name}: {count} document(s), and each half (selection, reporting) "
                "needs one; give more documents"
            )


def _save(path: Path, splits: dict[str, TokenSet]) -> None:
    arrays = {
        f"{name}.{field.name}": array
        for name, split in splits.items()
        for field in fields(TokenSet)
        if (array := getattr(split, field.name)) is not None
    }
    try:
        with whole_file(path) as draft, open(draft, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(
            f"{path}: the tokenised data cannot be cached: {error}; free space or set "
            "RAY_UNLEARN_CACHE"
        ) from None


def _load(path: Path, names: Sequence[str]) -> dict[str, TokenSet] | None:
    """The cached arrays; None if they are missing or damaged, so that they are made again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _token_set(arrays, name) for name in names}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _token_set(arrays: Mapping[str, Any], name: str) -> TokenSet:
    of_split = {key.removeprefix(f"{name}."): key for key in arrays if key.startswith(f"{name}.")}
    return TokenSet(**{field: arrays[key] for field, key in of_split.items()})
