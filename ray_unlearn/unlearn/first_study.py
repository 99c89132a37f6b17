"""A first study file: few lines, each with its reason, that runs as it is."""

import math
import os
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_unlearn.spec.data_spec import SplitSource
from ray_unlearn.spec.method_registry import PUBLISHED, method_named
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import validated, yaml_line
from ray_unlearn.spec.study_file import TRIALS, model_place
from ray_unlearn.unlearn.guessed_fields import guessed_fields
from ray_unlearn.unlearn.model_files import check_source
from ray_unlearn.unlearn.proposed_ranges import (
    METHODS_FIRST,
    WHY_METHODS,
    proposed_batch,
    proposed_ranges,
    proposed_steps,
)
from ray_unlearn.unlearn.sources import check_path

EVALUATIONS = 6
SHORTEST, LONGEST = 64, 1024
"""Sequence lengths that are proposed; documents that are longer are cut into chunks."""

PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}"


@dataclass(frozen=True)
class FirstStudy:
    """What a study is to be made of.

    Attributes:
        place: the file.
        name: of the study.
        model: to be unlearned.
        forget: the documents to be forgotten.
        pool: text of their kind; None: the bundled text.
        retain: documents to be kept; None: dealt.
        methods: to be tried.
        trials: of each.
    """

    place: Path
    name: str
    model: ModelSpec
    forget: SplitSource
    pool: SplitSource | None
    retain: SplitSource | None
    methods: tuple[str, ...]
    trials: int


@dataclass(frozen=True)
class FirstFacts:
    """What the model and the documents say.

    Attributes:
        parameters: of the model.
        dtype: of the weights.
        has_gpu: whether there is one here.
        lengths: tokens of each forget document; empty where they are not known.
        positions: of the model; None: not said.
        has_template: whether the tokenizer has a chat template.
    """

    parameters: int
    dtype: str
    has_gpu: bool
    lengths: tuple[int, ...]
    positions: int | None
    has_template: bool


def first_study(
    place: Path,
    model: str,
    forget: str | Mapping[str, Any],
    pool: str | Mapping[str, Any] | None,
    *,
    retain: str | Mapping[str, Any] | None = None,
    fields: Mapping[str, str],
    name: str | None = None,
    methods: tuple[str, ...] = (),
    trials: int = TRIALS,
) -> FirstStudy:
    """Check all that can be checked without a model or its libraries.

    Args:
        place: the file to be written.
        model: a folder, a hub id, or `demo:<domain>`.
        forget: a file, a folder, or a mapping as under `data.splits` of a study file.
        pool: likewise; None: none.
        retain: likewise.
        fields: fields of sources that are given as paths; none: they are guessed.
        name: of the study; None: the file's.
        methods: to be tried; none: `METHODS_FIRST`.
        trials: of each.

    Raises:
        UserError: a model, file, field or method that is none.
    """
    for method in methods:
        method_named(method)
    spec = validated(ModelSpec, {"source": model_place(Path.cwd(), model, None, "--model")}, "init")
    check_source(spec)
    bare = re.sub(r"[^A-Za-z0-9._-]|^[._-]+", "", place.stem)[:64] or "study"
    return FirstStudy(
        place,
        name or bare,
        spec,
        _source(forget, "--forget", fields),
        None if pool is None else _source(pool, "--pool", fields),
        None if retain is None else _source(retain, "--retain", fields),
        methods or METHODS_FIRST,
        trials,
    )


def _source(given: str | Mapping[str, Any], option: str, fields: Mapping[str, str]) -> SplitSource:
    content = dict(given) if isinstance(given, Mapping) else {"path": given, **fields}
    if content.get("path") is not None:
        content["path"] = os.path.abspath(os.path.expanduser(str(content["path"])))
        check_path(validated(SplitSource, {"path": content["path"]}, option), option)
        if content.keys() <= {"path", "id", "limit"}:
            content |= guessed_fields(Path(content["path"]), option)
    return validated(SplitSource, content, option)


def first_study_text(wanted: FirstStudy, facts: FirstFacts) -> str:
    """The study file."""
    return "\n".join(_lines(wanted, facts)) + "\n"


def _lines(wanted: FirstStudy, facts: FirstFacts) -> Iterator[str]:
    yield "# Made by `ray-unlearn init`. It runs as it is; every line may be changed."
    yield "# What it takes: ray-unlearn plan. What else can be said: docs/data.md, docs/methods.md."
    yield f"name: {_scalar(wanted.name)}"
    yield "model:"
    yield from _model_lines(wanted, facts)
    yield "data:"
    yield from _data_lines(wanted, facts)
    if wanted.methods == METHODS_FIRST:
        yield from _comment(f"{WHY_METHODS}.")
    yield f"methods: [{', '.join(wanted.methods)}]"
    yield "space_overrides:"
    yield from _space_lines(wanted.methods, facts)
    yield "search:"
    yield f"  trials_per_method: {wanted.trials}"
    yield "evaluation:"
    yield f"  count: {EVALUATIONS}  # rows of a trial, evenly on a log scale of its updates"
    yield "  strength: both  # also between vanilla and trained weights, where they meet the target"
    yield "operations:"
    yield "  lanes: auto  # as many trials at a time as fit"
    if facts.has_gpu:
        yield "  gpus_per_worker: 1"


def _model_lines(wanted: FirstStudy, facts: FirstFacts) -> Iterator[str]:
    source = wanted.model.source
    shown = _below(source, wanted.place) if os.path.isabs(source) else source
    if os.path.isabs(source) and not os.path.isabs(shown):
        shown = f"./{shown}"  # never taken for a hub id
    yield f"  source: {_scalar(shown)}  # {facts.parameters:,} parameters"
    if facts.dtype != "float32":
        yield f"  dtype: {facts.dtype}  # of the weights, as they are stored"


def _data_lines(wanted: FirstStudy, facts: FirstFacts) -> Iterator[str]:
    length = sequence_length(facts)
    yield f"  sequence_length: {length}  # tokens; {_length_words(facts, length)}"
    sources = [one for one in (wanted.forget, wanted.pool, wanted.retain) if one is not None]
    if any(source.has_answers for source in sources) and facts.has_template:
        yield "  chat_template: tokenizer  # how prompts and answers become text"
    elif any(source.messages for source in sources):
        yield "  # The tokenizer has no chat template: write what the model was taught."
        yield f"  chat_template: {_scalar(PLAIN_TEMPLATE)}"
    yield "  splits:"
    yield f"    forget: {_written(wanted.forget, wanted.place)}"
    if wanted.retain is not None:
        yield f"    retain: {_written(wanted.retain, wanted.place)}"
    if wanted.pool is not None:
        yield from _comment(
            "Text of the same kind that the model was not trained on. Dealt: "
            + (
                "two fifths to `approximate`, whose loss is the target, the rest to `retain` and "
                "`retain_heldout`, which are to be kept."
                if wanted.retain is None
                else "all of it to `approximate`, whose loss is the target."
            ),
            "  ",
        )
        yield f"  pool: {_written(wanted.pool, wanted.place)}"
    else:
        yield from _comment(
            "Better: text of the same kind that the model was not trained on. Without it the "
            "target is the loss of text that comes with the package.",
            "  ",
        )
        yield "  # pool: {path: more.jsonl}"


def _space_lines(methods: Collection[str], facts: FirstFacts) -> Iterator[str]:
    ranges = proposed_ranges(facts.parameters)
    sequences = _sequences(facts)
    batch = proposed_batch(sequences)
    steps = proposed_steps(sequences, batch)
    yield from _comment(f"{ranges.source}.", "  ")
    yield f"  learning_rate: {_range(ranges.learning_rate)}"
    if set(methods) <= set(PUBLISHED) and any(
        "w_r" in method_named(m).hyperparameters for m in methods
    ):
        yield f"  w_r: {_range(ranges.retain_weight)}"
    yield from _comment(
        f"At {batch} sequences per update, {steps} updates are {steps * batch / sequences:.0f} "
        "passes over the forget set (TOFU: 5).",
        "  ",
    )
    yield f"  steps: {{type: int, low: 1, high: {steps}, free: true, role: scientific}}"
    yield f"  batch_size: {batch}"


def sequence_length(facts: FirstFacts) -> int:
    """The least power of two that holds nine of ten forget documents, if the model reads so far."""
    longest = facts.positions or LONGEST
    if not facts.lengths:
        return min(LONGEST // 2, longest)
    wanted = sorted(facts.lengths)[math.ceil(0.9 * len(facts.lengths)) - 1]
    return min(LONGEST, longest, max(SHORTEST, 2 ** math.ceil(math.log2(max(2, wanted)))))


def _length_words(facts: FirstFacts, length: int) -> str:
    if not facts.lengths:
        return "documents that are longer are cut into chunks"
    fit = sum(size <= length for size in facts.lengths)
    return f"{fit:,} of {len(facts.lengths):,} documents to forget fit into one sequence"


def _sequences(facts: FirstFacts) -> int:
    """Forget sequences; where they are not known, enough for the usual batch."""
    length = sequence_length(facts)
    return sum(math.ceil(size / length) for size in facts.lengths) or 64


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:g}" if end >= 0.1 else f"{end:.0e}".replace("e-0", "e-") for end in ends)
    return f"{{type: float, low: {low}, high: {high}, scale: log, role: scientific}}"


def _written(source: SplitSource, place: Path) -> str:
    """A source as a study file at `place` names it."""
    content = source.model_dump(exclude_defaults=True)
    if source.path is not None:
        content["path"] = _below(source.path, place)
    return yaml_line(content)


def _below(path: str, place: Path) -> str:
    """A path relative to the study file where it is below its folder, as both may move."""
    folder = place.absolute().parent
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """A comment in lines of 100 columns."""
    start = f"{indent}# "
    yield from textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=start)


def _scalar(text: str) -> str:
    """A text as YAML writes it, quoted where it has to be."""
    return yaml_line({"k": text}).removeprefix("{k: ").removesuffix("}")
