"""Findings of the study's own model, loaded: that it works, what it knows, how the halves agree."""

from collections.abc import Callable, Iterator
from functools import partial

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.target import (
    forgetting_warnings,
    halves_agree,
    leaves_nothing_to_forget,
    target_warnings,
)
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.finding import Finding, FindingState
from ray_unlearn.unlearn.model import reason_of
from ray_unlearn.unlearn.tried_model import (
    AskedModel,
    asked_model,
    model_is_here,
    opened_here,
    too_large_here,
)
from ray_unlearn.unlearn.workspace import Workspace

Opened = tuple[Workspace, int, float]
Ask = Callable[[str, Callable[[], Opened], Callable[[Opened], str | list[Finding]]], Opened | None]
"""`Admission.ask`: what is checked, the check, and the words of what it finds."""


def ask_model(
    ask: Ask, spec: StudySpec, data: StudyData, measures: bool, downloads: bool
) -> tuple[AskedModel | None, list[Finding]]:
    """Load the model, pass a batch through it, and ask what it knows, as far as that can be.

    Args:
        ask: makes a check and keeps what it finds (`Admission.ask`).
        spec: the study.
        data: its data.
        measures: whether to ask what the model knows of each set.
        downloads: whether a model that is not on this machine may be fetched.

    Returns:
        What the model knows, None where it was not asked; and what else was found.
    """
    workspace = None
    found: list[Finding] = []
    if reason := _not_tried(spec, downloads):
        found.append(Finding("weights", "note", f"the model is not tried: {reason}"))
    else:
        try:
            opened = ask("weights", partial(opened_here, spec, data), partial(_weight_words, spec))
        except Exception as error:  # whatever a model's own code raises
            return None, [*found, _not_callable(spec, error)]
        if opened is None:
            return None, found
        workspace = opened[0]
    if not measures:
        return None, found
    asked = asked_model(spec, data, workspace)
    return asked, [*found, *_knowledge(asked)]


def _not_callable(spec: StudySpec, error: Exception) -> Finding:
    """On GPUs it may work all the same."""
    said = f"model.source: {spec.model.source} cannot be called here: {reason_of(error)}"
    return Finding("weights", "note" if spec.operations.gpus_per_worker else "refused", said)


def _not_tried(spec: StudySpec, downloads: bool) -> str | None:
    if not (model_is_here(spec.model) or downloads):
        return (
            f"{spec.model.source} is not on this machine; `ray-unlearn plan --download` fetches it"
        )
    return too_large_here(spec)


def _weight_words(spec: StudySpec, opened: Opened) -> str:
    _, count, loss = opened
    length = spec.data.sequence_length
    return f"loaded; a batch of {count} sequences of {length:,} tokens: {loss:.3f} nats/token"


def _knowledge(asked: AskedModel) -> Iterator[Finding]:
    """Whether the model remembers the forget set, and whether the halves agree."""
    vanilla = asked.vanilla
    if not vanilla:
        yield Finding("target", "ok", "measured before the first trial")
        return
    of = "" if asked.sample is None else f" (a sample of {asked.sample} sequences of each set)"
    seen = (
        f"perplexity of the forget set {vanilla['forget_ppl']:.3g}; of unseen documents "
        f"{vanilla['approximate_ppl_reporting']:.3g}, retain {vanilla['retain_ppl_reporting']:.3g},"
        f" general {vanilla['general_ppl_reporting']:.3g}; a loss attack tells forget from unseen "
        f"documents with AUC {vanilla['mia_loss_auc_reporting']:.2f}{of}"
    )
    warnings = list(forgetting_warnings(vanilla))
    yield Finding("knows the forget set", "note" if warnings else "ok", seen)
    nothing = leaves_nothing_to_forget(vanilla, whole=asked.sample is None)
    state: FindingState = "pointless" if nothing else "warning"
    for warning in warnings:
        yield Finding("something to forget", state, warning)
    if asked.sample is None:
        apart = list(target_warnings(asked.halves))
        for warning in apart:
            yield Finding("target", "warning", warning)
        if not apart:
            yield Finding("halves agree", "ok", halves_agree(asked.halves))
