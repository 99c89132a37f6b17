"""The admission of a study: all that can be checked before anything starts, as one list.

`ray-unlearn plan`, `ray-unlearn doctor STUDY` and the start of a study ask the same function.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.target import HalfTarget
from ray_unlearn.unlearn.architecture import (
    TriedArchitecture,
    check_flash_attention,
    check_retrained,
    check_tokenizer,
    model_config,
    tried_architecture,
)
from ray_unlearn.unlearn.context_length import check_positions
from ray_unlearn.unlearn.cost_findings import cost_findings
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.data_findings import data_findings
from ray_unlearn.unlearn.dealt_splits import dealt_findings
from ray_unlearn.unlearn.finding import Finding
from ray_unlearn.unlearn.layout import NOT_PACKED
from ray_unlearn.unlearn.loaded_tasks import check_task_names, task_findings
from ray_unlearn.unlearn.machine import Machine
from ray_unlearn.unlearn.memory import active_parameter_count, on_meta, parameter_count
from ray_unlearn.unlearn.model_files import check_source
from ray_unlearn.unlearn.model_findings import ask_model
from ray_unlearn.unlearn.plan import StudyPlan, plan
from ray_unlearn.unlearn.prepared_study import prepared_study
from ray_unlearn.unlearn.room import room_findings
from ray_unlearn.unlearn.sources import check_path
from ray_unlearn.unlearn.tracker_extras import missing_trackers
from ray_unlearn.unlearn.trained_layers import check_trained_layers
from ray_unlearn.unlearn.tried_model import model_is_here

Value = TypeVar("Value")
SMALL = 10**8
"""Parameters of a model for which one thread is enough."""


def data_are_here(spec: StudySpec) -> bool:
    """Whether no documents are on the hub."""
    sources = (*spec.data.sources.values(), *spec.evaluation.sources.values())
    return all(source.hub is None for source in sources)


@dataclass
class Admission:
    """What the checks of a study found, and what they had to make for it."""

    findings: list[Finding] = field(default_factory=list)
    plan: StudyPlan | None = None
    """None where the model's config cannot be read."""
    data: StudyData | None = None
    """None where documents or tokenizer are not on this machine, or were not looked at."""
    halves: tuple[HalfTarget, HalfTarget] | None = None

    def states(self, *states: str) -> list[Finding]:
        """The findings in one of these states."""
        return [finding for finding in self.findings if finding.state in states]

    @property
    def worth_saying(self) -> list[Finding]:
        """Findings that whoever runs the study should know of."""
        return self.states("note", "warning", "pointless", "no room")

    def refuse(self) -> None:
        """Raise whatever is refused.

        Raises:
            UserError: with one line for each such finding.
        """
        if refused := self.states("refused"):
            raise UserError("\n".join(map(str, refused)))

    def ask(
        self, what: str, check: Callable[[], Value], words: Callable[[Value], str | list[Finding]]
    ) -> Value | None:
        """Make a check and add what it finds.

        Args:
            what: is checked.
            check: raises `UserError` where the study is to be refused.
            words: what was found where it is not; a text if nothing is wrong.

        Returns:
            What the check returned; None where it refused.
        """
        try:
            value = check()
        except UserError as error:
            if all(str(error) != str(finding) for finding in self.findings):
                self.findings.append(Finding(what, "refused", str(error)))
            return None
        found = words(value)
        self.findings += [Finding(what, "ok", found)] if isinstance(found, str) else found
        return value


def admission(
    spec: StudySpec,
    machine: Machine | None = None,
    *,
    lanes: int | None = None,
    data: StudyData | None = None,
    looks_at_data: bool = True,
    measures: bool = True,
    downloads: bool = False,
) -> Admission:
    """Check a study: its model, its data, what it aims at, and its room on a machine.

    Nothing is started. The model is loaded, and called once, where it is on this machine and has
    room in its memory; after all that can be known without it.

    Args:
        spec: the study.
        machine: where it is to run; None: not known, and room is not looked at.
        lanes: how many it has; None: those in the spec, with `auto` as many as fit here.
        data: its data, if they are prepared already.
        looks_at_data: whether to read data that are on this machine.
        measures: whether to ask the model what it knows of each set.
        downloads: whether to fetch a hub model that is not on this machine.
    """
    found = Admission(data=data)
    if said := missing_trackers(spec.operations.loggers, "operations.loggers"):
        found.findings.append(Finding("loggers", "refused", said))
    with one_thread():
        _check_model(found, spec, lanes)
        _check_data(found, spec, looks_at_data, downloads)
    if machine is not None and found.plan is not None:
        found.findings += room_findings(found.plan, machine, spec)
    if found.data is not None and found.plan is not None and not found.states("refused"):
        with one_thread() if found.plan.parameters < SMALL else nullcontext():
            asked, more = ask_model(found.ask, spec, found.data, measures, downloads)
        found.findings += more
        if asked is not None:
            found.data, found.halves = asked.data, asked.halves
    return found


def readmission(
    spec: StudySpec, machine: Machine | None = None, asks_tasks: bool = True
) -> Admission:
    """What may have changed since a study was admitted: model files, tasks, the machine.

    Nothing is read but names, sizes and the model's config.

    Args:
        spec: the study.
        machine: where it is to go on; None: room is not looked at.
        asks_tasks: whether there will be rows with columns of tasks.
    """
    found = Admission()
    found.ask("model files", partial(check_source, spec.model), lambda _: "whole, as far as seen")
    if asks_tasks:
        _check_tasks(found, spec, looks=False)
    if not found.states("refused"):
        found.plan = found.ask("plan", partial(plan, spec), lambda _: [])
    if machine is not None and found.plan is not None:
        found.findings += room_findings(found.plan, machine, spec)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Small models are tried here, and spinning threads make them ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_model(found: Admission, spec: StudySpec, lanes: int | None) -> None:
    found.ask("model files", partial(check_source, spec.model), lambda _: "whole, as far as seen")
    config = _config(found, spec)
    if config is not None:
        _architecture(found, spec, config)
        found.ask("trained layers", partial(check_trained_layers, spec), lambda said: said)
        if spec.model.exact_retrain or spec.model.exact_retrain_seeds:
            retrained = partial(check_retrained, spec, config)
            found.ask("retrained models", retrained, lambda _: "of the same shape")
        found.plan = plan(spec, lanes)
        found.findings += cost_findings(spec, found.plan)


def _check_data(found: Admission, spec: StudySpec, looks: bool, downloads: bool) -> None:
    _check_tasks(found, spec, looks)
    if found.data is not None:
        found.findings.append(Finding("documents", "ok", _document_words(found.data)))
    elif looks:
        found.data = _data(found, spec, downloads)
    if found.data is not None:
        found.findings += data_findings(spec, found.data)


def _check_tasks(found: Admission, spec: StudySpec, looks: bool) -> None:
    """The tasks that rows have columns of; only files and installation where data are not read."""
    if not spec.evaluation.tasks:
        return
    planned = found.plan
    rows = 0 if planned is None else planned.evaluations + planned.calibrations
    if looks:
        found.ask("tasks", partial(task_findings, spec.evaluation, rows), lambda said: said)
    else:
        found.ask("tasks", partial(check_task_names, spec.evaluation), lambda _: "not loaded yet")


def _config(found: Admission, spec: StudySpec) -> Any | None:
    """The model's config; not asked for where `check_source` has said that there is none."""
    if found.states("refused") and not (Path(spec.model.source) / "config.json").is_file():
        return None
    return found.ask("kind of model", partial(model_config, spec), _kind_words)


def _kind_words(config: Any) -> str:
    count, active = parameter_count(config), active_parameter_count(config)
    experts = f", a token uses {active:,.0f} of them" if active < count else ""
    return f"causal language model ({config.model_type}) of {count:,} parameters{experts}"


def _architecture(found: Admission, spec: StudySpec, config: Any) -> None:
    """Tokenizer, context length, and what a small model of the same architecture does."""
    if model_is_here(spec.model):
        rows = config.vocab_size
        check = partial(check_tokenizer, spec, rows)
        found.ask("tokenizer", check, lambda most: f"largest token id {most}, {rows} embeddings")
    if spec.model.attention == "flash_attention_2":
        found.ask("FlashAttention", partial(check_flash_attention, spec), lambda said: said)
    length = spec.data.sequence_length
    found.ask(
        "context length",
        lambda: check_positions(on_meta(config), length),
        partial(_context_words, config, length),
    )
    packed = spec.data.layout == "pack"
    found.ask(
        "attention, packing, logits",
        lambda: tried_architecture(config, spec.model.attention, packed, spec.model.source),
        partial(_tried_words, spec),
    )


def _context_words(config: Any, length: int, beyond: str | None) -> str | list[Finding]:
    if beyond is not None:
        return [Finding("context length", "note", beyond)]
    most = getattr(config, "max_position_embeddings", None)
    return f"sequences of {length:,} tokens" + (f", {most:,} positions" if most else "")


def _tried_words(spec: StudySpec, tried: TriedArchitecture | None) -> str | list[Finding]:
    what, attention = "attention, packing, logits", spec.model.attention
    if tried is None:
        said = (
            f"`{attention}`: not tried, since no small model of this architecture can be built; a "
            "lane tries the model itself"
        )
        return [Finding(what, "note", said)]
    if spec.data.layout == "pack" and tried.layout == "apart":
        return [Finding(what, "note", NOT_PACKED.format(tried.kind))]
    logits = tried.logit_map
    parts = [f"`{attention}`", LAYOUT_WORDS[tried.layout]]
    parts += [f"logits times {logits.scale:g}"] if logits.scale != 1 else []
    parts += [f"logits capped softly at {logits.cap:g}"] if logits.cap is not None else []
    return ", ".join(parts)


LAYOUT_WORDS = {
    "by_document": "batches without padding",
    "stored": "sequences as they are stored",
    "apart": "a row for each document",
}


def _data(found: Admission, spec: StudySpec, downloads: bool) -> StudyData | None:
    """The prepared data, where documents and tokenizer are on this machine."""
    if not (data_are_here(spec) and (model_is_here(spec.model) or downloads)):
        where = "on the hub" if not data_are_here(spec) else "needed by a model that is not here"
        said = f"documents or tokens {where}: they are read when the study starts"
        found.findings.append(Finding("documents", "note", said))
        found.findings += dealt_findings(spec.data)
        for place, source in (spec.data.sources | spec.evaluation.sources).items():
            found.ask("documents", partial(check_path, source, place), lambda _: [])
        return None
    return found.ask("documents", partial(prepared_study, spec), _document_words)


def _document_words(data: StudyData) -> str:
    return "read: " + ", ".join(
        f"{name} {len(tokens.selection):,} ({len(tokens):,} sequences, "
        f"{int(tokens.target_mask.sum()):,} targets)"
        for name, tokens in data.splits.items()
    )
