"""Prompting: forget documents after a given text, and in other words.

What a model says only without the right words before it was hidden and not forgotten (jailbreak
prefixes, paraphrases: Lynch et al. 2024, arXiv 2402.16835).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import PARAPHRASES
from ray_unlearn.unlearn.batch import document_runs
from ray_unlearn.unlearn.conversations import written_out
from ray_unlearn.unlearn.model import load_tokenizer
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.sources import read_documents, read_source
from ray_unlearn.unlearn.token_set import TokenSet

SHOWN = 40
"""Characters of a prefix in a table."""


@dataclass(frozen=True)
class Prompted:
    """Documents to measure, and those that say what there is without the attack."""

    setting: str
    plain: TokenSet
    attacked: TokenSet
    text: str = ""
    """`paraphrases` where the documents are others."""


def with_prefix(spec: StudySpec, forget: TokenSet, prefix: str, positions: int | None) -> Prompted:
    """The forget set with a text before each document, or at the start of each prompt.

    The text is context: the targets are the documents' own. Where the model has no positions for
    longer sequences, documents lose their ends, with the prefix and without it.

    Args:
        spec: the study.
        forget: its forget set.
        prefix: as it is written; a space or line break at its end is part of it.
        positions: tokens of the longest sequence that the model was made for; None: not known.

    Raises:
        UserError: the prefix leaves no room for a document.
    """
    name = prefix if len(prefix) <= SHOWN else prefix[: SHOWN - 3] + "..."
    setting, tokenizer = f"after {name!r}", load_tokenizer(spec.model)
    ids = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    length = forget.input_ids.shape[1]
    longer = min(length + len(ids), max(length, positions or length))
    source = spec.data.splits.get("forget")
    if source is not None and source.has_answers:
        documents = [_asked(one, prefix) for one in read_documents(spec.data)["forget"]]
        attacked = _as_tokens(documents, spec, tokenizer, "forget", longer)
        return Prompted(setting, forget, attacked)
    if len(ids) > longer - 2:
        raise UserError(
            f"--prefix {name!r}: {len(ids)} tokens leave no room in sequences of {longer}; give a "
            "shorter one"
        )
    special = set(tokenizer.all_special_ids)
    plain = _one_run_a_row(forget, [], special, longer - len(ids))
    return Prompted(setting, plain, _one_run_a_row(forget, ids, special, longer - len(ids)))


def paraphrased(spec: StudySpec, forget: TokenSet, path: str) -> Prompted:
    """The forget set in other words, beside the forget set itself.

    Args:
        spec: the study; the file has the fields of its forget split.
        forget: its forget set.
        path: a JSONL, Parquet or text file, or a folder.

    Raises:
        UserError: it cannot be read, or has no documents.
    """
    source = spec.data.splits.get("forget", SplitSource(path=path))
    fields = source.model_dump(include={"text", "prompt", "answer", "messages", "id", "pattern"})
    documents = list(read_source(SplitSource(path=path, **fields), "--paraphrases"))
    if not documents:
        raise UserError(f"--paraphrases {path}: no documents; give a file with some")
    length = spec.data.sequence_length
    tokens = _as_tokens(documents, spec, load_tokenizer(spec.model), "paraphrases", length)
    return Prompted(f"paraphrases ({len(documents)} documents)", forget, tokens, PARAPHRASES)


def _asked(document: Document, prefix: str) -> Document:
    """The conversation with the prefix before its last prompt."""
    *before, prompt, answer = document.turns
    changed = prompt._replace(content=prefix + prompt.content)
    return document._replace(turns=(*before, changed, answer))


def _as_tokens(
    documents: list[Document], spec: StudySpec, tokenizer: Any, name: str, length: int
) -> TokenSet:
    data = spec.data.model_copy(update={"sequence_length": length})
    return tokenised(written_out(documents, data, tokenizer, name), tokenizer, data, name)


def _one_run_a_row(
    tokens: TokenSet, prefix: list[int], special: set[int], longest: int
) -> TokenSet:
    """Every document, or its part in one sequence, in a row of its own after the prefix.

    The prefix comes after special tokens at the start (the beginning of text). The first token of
    the document is no target here, as it is none without a prefix.
    """
    real = tokens.document >= 0
    ids, owner = tokens.input_ids[real], tokens.document[real]
    context = np.zeros(len(ids), dtype=bool) if tokens.prompt is None else tokens.prompt[real]
    starts, lengths = document_runs(tokens, np.arange(len(tokens)))
    rows = np.full((len(starts), longest + len(prefix)), 0, dtype=np.int32)
    document = np.full(rows.shape, -1, dtype=np.int32)
    prompt = np.zeros(rows.shape, dtype=bool)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        part = slice(start, start + min(length, longest))
        own: NDArray[np.int32] = ids[part]
        head = next((i for i, token in enumerate(own) if int(token) not in special), 0)
        written = [*own[:head], *prefix, *own[head:]]
        is_context = [*context[part][:head], *[True] * len(prefix), *context[part][head:]]
        is_context[head + len(prefix)] |= head == 0
        rows[row, : len(written)] = written
        document[row, : len(written)] = owner[start]
        prompt[row, : len(written)] = is_context
    return TokenSet(rows, document, tokens.compressed_bytes, tokens.selection, prompt)
