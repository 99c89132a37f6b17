"""Readers of documents: demo text, the hub, JSONL, Parquet, text files and folders."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ray_unlearn.demo import demo_domain
from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import EXAMPLES, SPLITS, DataSpec, SplitSource, place_of
from ray_unlearn.spec.document import Document, Turn
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.evaluation_spec import WatchedSet
from ray_unlearn.spec.given_file import json_value
from ray_unlearn.unlearn.as_jsonl import as_jsonl
from ray_unlearn.unlearn.dealt_splits import deal_splits
from ray_unlearn.unlearn.document_hash import text_hash
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.hub_ids import check_hub_id

TEXT_FILES = (".txt", ".md")
KINDS = (".jsonl", ".jsonl.gz", ".parquet", *TEXT_FILES)
SYSTEM = "system"
LFS_POINTER = "version https://git-lfs"
ReadRow = tuple[str, Document]
"""Where a document was found, in words, and the document."""


def read_documents(
    spec: DataSpec,
    sets: Mapping[str, WatchedSet] | None = None,
    find: Callable[[Finding], None] = lambda finding: None,
) -> dict[str, list[Document]]:
    """The documents of every split in `SPLITS` and of watched sets, in source order.

    Splits without a source are dealt (`dealt_splits`). Where no `retain_heldout` is given beside
    `retain`, `heldout_share` of the retain documents (by hash) are held out.

    Args:
        spec: the sources, and what becomes of blank rows.
        find: called with how many rows of a split were blank and skipped, where there were any, and
            with what was dealt from where.

    Raises:
        UserError: a missing file, field or data set; an empty split; text that is not a string; a
            blank row, if they are refused; a pool with too few documents.
    """
    if spec.source is not None:
        splits = demo_documents(demo_domain(spec.source))
    else:
        splits = _splits(spec, find)
    watched = {name: _watched(spec, one, name, find) for name, one in (sets or {}).items()}
    found = {name: splits[name] for name in SPLITS} | watched
    for name, documents in found.items():
        if not documents:
            raise UserError(
                f"{place_of(name)}: no documents; check `limit`, `pattern`, or give more text"
            )
    return found


def _splits(spec: DataSpec, find: Callable[[Finding], None]) -> dict[str, list[Document]]:
    """The documents of all splits: read, dealt, held out."""
    splits: dict[str, list[Document]] = {
        name: _source(spec, source, place_of(name), find) for name, source in spec.splits.items()
    }
    if spec.dealt:
        pool = [] if spec.pool is None else _source(spec, spec.pool, "data.pool", find)
        dealt, findings = deal_splits(spec, splits, pool)
        splits |= dealt
        for finding in findings:
            find(finding)
    if "retain_heldout" not in splits:
        splits |= _hold_out(splits["retain"], spec.heldout_share)
    return splits


def _hold_out(documents: list[Document], share: float) -> dict[str, list[Document]]:
    held = [int(text_hash(document.text)[:8], 16) / 16**8 < share for document in documents]
    return {
        "retain": [document for document, out in zip(documents, held, strict=True) if not out],
        "retain_heldout": [document for document, out in zip(documents, held, strict=True) if out],
    }


def _source(
    spec: DataSpec, source: SplitSource, where: str, find: Callable[[Finding], None]
) -> list[Document]:
    skipped: list[str] = []
    found = list(read_source(source, where, skipped if spec.blank_rows == "skip" else None))
    if skipped:
        said = f"{len(skipped):,} blank rows were skipped, {len(found):,} documents are left"
        find(Finding("blank rows", "note", f"{where}: {said}"))
    return found


def _watched(
    spec: DataSpec, source: WatchedSet, name: str, find: Callable[[Finding], None]
) -> list[Document]:
    """A watched set, with its examples as turns before the question of each document."""
    found = _source(spec, source, place_of(name), find)
    if source.examples is None:
        return found
    shown = list(read_source(source.examples, f"{place_of(name)}.{EXAMPLES}"))
    before = tuple(turn for one in shown for turn in one.turns if turn.role != SYSTEM)
    return [document._replace(turns=_after(before, document.turns)) for document in found]


def _after(before: tuple[Turn, ...], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """A conversation with others before it; what the system says stays first."""
    first = 1 if turns[0].role == SYSTEM else 0
    return (*turns[:first], *before, *turns[first:])


def read_source(
    source: SplitSource, where: str, skipped: list[str] | None = None
) -> Iterator[Document]:
    """The first `limit` documents of a source, whatever library reads them.

    Args:
        source: file, folder or data set.
        where: its name in messages.
        skipped: receives the ids of blank rows; None: they are refused.

    Raises:
        UserError: it is missing, damaged, or lacks a field.
    """
    from pyarrow import ArrowException

    count = 0
    try:
        for place, document in _read_all(source, where):
            if _is_blank(document):
                if skipped is None:
                    raise UserError(_refused_blank(source, place))
                skipped.append(document.id)
                continue
            yield document
            count += 1
            if count == source.limit:
                return
    except (OSError, EOFError, UnicodeError, zlib.error, ArrowException) as error:
        raise UserError(
            f"{where}.path: {source.path}: cannot be read: {error}; is the file whole, and UTF-8?"
        ) from None


def _is_blank(document: Document) -> bool:
    """Whether a document has no text, or no answer."""
    text = document.turns[-1].content if document.turns else document.text
    return not text.strip()


def _refused_blank(source: SplitSource, place: str) -> str:
    part = f"the answer in field {source.fields[-1]!r}" if source.has_answers else "the text"
    return (
        f"{place}: {part} is empty, so there is nothing to predict; remove it, or set "
        "`data.blank_rows: skip`"
    )


def refuse_overlap(documents: Mapping[str, Sequence[Document]]) -> None:
    """Refuse documents that are in two splits.

    Args:
        documents: by split.

    Raises:
        UserError: the document, and both splits.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name in SPLITS:
        for document in documents.get(name, ()):
            other, other_id = seen.setdefault(text_hash(document.text), (name, document.id))
            if other != name:
                raise UserError(
                    f"data: document {document.id!r} of `{name}` is also in `{other}` (as "
                    f"{other_id!r}); splits must not share documents: remove it from one of them"
                )


def check_path(source: SplitSource, where: str) -> None:
    """Refuse a local source that is not there or cannot be read; one on the hub is not asked for.

    Args:
        source: of a split.
        where: the study file's key that names it.

    Raises:
        UserError: no such file or folder, or a file of another kind.
    """
    path = Path(source.path or ".")
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"{where}.path: no such file or folder: "
            f"{path}{nearest(path.name, siblings) if siblings else ''}"
        )
    if path.is_file() and not path.name.endswith(KINDS):
        raise UserError(
            f"{where}.path: unknown file type {path.name!r}; use .jsonl, .jsonl.gz, .parquet, "
            f".txt or a folder{as_jsonl(path)}"
        )


def _read_all(source: SplitSource, where: str) -> Iterator[ReadRow]:
    if source.hub is not None:
        yield from _from_hub(source, where)
        return
    assert source.path is not None
    check_path(source, where)
    path = Path(source.path)
    if source.has_answers and (path.is_dir() or path.suffix in TEXT_FILES):
        raise UserError(
            f"{where}: {path} has no fields {', '.join(map(repr, source.fields))}; a prompt with "
            "its answer is a line of a .jsonl, or a row of a .parquet file"
        )
    if path.is_dir():
        yield from _from_folder(path, source.pattern, where)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _from_jsonl(path, source, where)
    elif path.suffix == ".parquet":
        yield from _from_parquet(path, source, where)
    else:
        yield f"{where}.path: {path}", Document(path.name, _text_of(path, where))


def _from_jsonl(path: Path, source: SplitSource, where: str) -> Iterator[ReadRow]:
    opener = gzip.open if path.suffix == ".gz" else open
    without_id = None
    with opener(path, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json_value(line)
            except ValueError as error:
                raise UserError(
                    f"{where}.path: {path}, line {number}: not valid JSON: {error}"
                    f"{_instead(path, line, number)}"
                ) from None
            if not isinstance(entry, dict):
                raise UserError(
                    f"{where}.path: {path}, line {number}: must be an object, got "
                    f"{type(entry).__name__}"
                    + (as_jsonl(path) or '; write one to a line: {"text": ...}')
                )
            if source.id is not None and without_id is not False:
                without_id = source.id not in entry
                fields = list(entry)
            yield _row(entry, source, str(number), f"{where}.path: {path}, line {number}")
    if without_id:
        raise UserError(
            f"{where}.id: {path}: no line has a field {source.id!r}"
            f"{nearest(str(source.id), fields)}"
        )


def _instead(path: Path, line: str, number: int) -> str:
    """What a file that is no JSONL may be, by its first line, and what to do."""
    begin = line.lstrip()
    if number > 1:
        return ""
    if begin.startswith(LFS_POINTER):
        return "; it is a git-lfs pointer, not the documents: run `git lfs pull` in its folder"
    if begin.startswith(("{", "[")):
        return as_jsonl(path) or "; write one object to a line, without line breaks inside"
    return "" if begin.startswith('"') else "; is it JSONL, one object to a line?"


def _from_parquet(path: Path, source: SplitSource, where: str) -> Iterator[ReadRow]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    wanted = [*source.fields, *source.other_answers.values(), *([source.id] if source.id else [])]
    missing = [name for name in wanted if name not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"{where}: {path} has no column "
            f"{missing[0]!r}{nearest(missing[0], file.schema_arrow.names)}"
        )
    number = 0
    for batch in file.iter_batches(columns=wanted):
        for entry in batch.to_pylist():
            number += 1
            yield _row(entry, source, str(number), f"{where}.path: {path}, row {number}")


def _from_folder(path: Path, pattern: str, where: str) -> Iterator[ReadRow]:
    files = sorted(file for file in path.glob(pattern) if file.is_file())
    if not files:
        raise UserError(f"{where}.path: no file in {path} matches {pattern!r}; set `pattern`")
    for file in files:
        name = str(file.relative_to(path))
        yield f"{where}.path: {file}", Document(name, _text_of(file, where))


def _text_of(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}.path: {path}: cannot be read as UTF-8 text: {error}") from None


def _from_hub(source: SplitSource, where: str) -> Iterator[ReadRow]:
    import datasets

    assert source.hub is not None
    name = f"{source.hub}" + (f" ({source.config})" if source.config else "")
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / source.hub.replace("/", "___")
    if not prepared.exists() and not Path(source.hub).exists():
        check_hub_id(source.hub, source.revision, "README.md", f"{where}.hub", "dataset")
    try:
        data = datasets.load_dataset(
            source.hub, source.config, split=source.split, revision=source.revision
        )
    # The hub client raises many kinds of error; each means that the data set cannot be loaded.
    except Exception as error:
        raise UserError(
            f"{where}.hub: cannot load {name}, split {source.split!r}: {type(error).__name__}: "
            f"{error}; "
            "check the name and the network, or download it and use `path`"
        ) from None
    missing = [
        field
        for field in (*source.fields, *source.other_answers.values(), source.id)
        if field and field not in data.column_names
    ]
    if missing:
        raise UserError(
            f"{where}: {name} has no field {missing[0]!r}{nearest(missing[0], data.column_names)}"
        )
    for number, entry in enumerate(data, start=1):
        yield _row(entry, source, str(number), f"{where}.hub: {name}, row {number}")


def _row(entry: dict[str, object], source: SplitSource, number: str, place: str) -> ReadRow:
    name = str(entry[source.id]) if source.id and source.id in entry else number
    if entry.get(source.fields[-1], "") is None:  # null: a blank row
        return place, Document(name, "")
    if not source.has_answers:
        return place, Document(name, _text_field(entry, source.text, place))
    if source.messages is not None:
        turns = _conversation(entry, source.messages, place)
    else:
        prompt, answer = (_text_field(entry, field, place) for field in source.fields)
        turns = (Turn("user", prompt), Turn("assistant", answer))
    others = {kind: _answers(entry, field, place) for kind, field in source.other_answers.items()}
    contents = "\n".join(turn.content for turn in turns)
    document = Document(name, contents, turns)
    return place, document._replace(
        alternatives=others.get("alternative", ()),
        paraphrased=others.get("paraphrased", ()),
        perturbed=others.get("perturbed", ()),
    )


def _answers(entry: Mapping[str, object], field: str, place: str) -> tuple[str, ...]:
    """One answer, or a list of them.

    Raises:
        UserError: none, or an empty one.
    """
    given = _value(entry, field, place)
    answers = given if isinstance(given, list) else [given]
    found = tuple(_text_field({field: answer}, field, place) for answer in answers)
    if not found or not all(answer.strip() for answer in found):
        raise UserError(
            f"{place}: field {field!r} holds an empty answer, or none; give one, or remove the row"
        )
    return found


def _conversation(entry: dict[str, object], field: str, place: str) -> tuple[Turn, ...]:
    """The messages of an entry; the last one must be the assistant's and answer another."""
    messages = _value(entry, field, place)
    if not isinstance(messages, list) or len(messages) < 2:
        raise UserError(
            f"{place}: field {field!r} must be a list of at least two messages, a prompt and an "
            "answer"
        )
    turns = []
    for count, message in enumerate(messages, start=1):
        at = f"{place}, message {count}"
        if not isinstance(message, dict):
            raise UserError(f"{at}: must have `role` and `content`, got {type(message).__name__}")
        turns.append(Turn(_text_field(message, "role", at), _text_field(message, "content", at)))
    if turns[-1].role != "assistant":
        raise UserError(
            f"{place}: the last message of {field!r} must be an answer, of the role 'assistant', "
            f"got {turns[-1].role!r}; remove what follows the answer, or the row"
        )
    return tuple(turns)


def _value(entry: Mapping[str, object], field: str, place: str) -> object:
    if field not in entry:
        raise UserError(f"{place}: no field {field!r}{nearest(field, entry)}")
    return entry[field]


def _text_field(entry: Mapping[str, object], field: str, place: str) -> str:
    text = _value(entry, field, place)
    if not isinstance(text, str):
        raise UserError(f"{place}: field {field!r} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair: no tokenizer accepts it
        raise UserError(f"{place}: field {field!r} is not valid Unicode: {error}") from None
    return text
