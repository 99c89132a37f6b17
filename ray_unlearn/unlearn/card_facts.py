"""What a model card says of an exported model, gathered from study, record and measurement.

Of the forget set it has name, counts and digests of the whole, never a text, nor a digest of one
document: who guesses a short text could confirm it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.given_file import given_text
from ray_unlearn.spec.guideline_file import load_guidelines
from ray_unlearn.spec.strict import yaml_value
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import AttackOutcome, read_attacks
from ray_unlearn.store.record import Record
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.model_files import HUB_ID
from ray_unlearn.unlearn.same_model import largest_difference
from ray_unlearn.unlearn.sources import read_documents
from ray_unlearn.unlearn.trial_model import MadeModel, TrialModels
from ray_unlearn.unlearn.written_model import (
    CONFIG,
    Form,
    base_file,
    config_differences,
    values_in,
)

CARD = "README.md"
LICENCE_KEYS = ("license", "license_name", "license_link")
UNKNOWN = "unknown"
"""What the hub calls a licence that nobody stated."""


@dataclass(frozen=True)
class ForgetSet:
    """What was forgotten, without a word of it."""

    name: str
    documents: int
    targets: int
    """Tokens that are predicted."""
    sha256: str
    """See `texts_digest`."""
    tokens_digest: str
    """The study's digest of the set as this model's tokenizer reads it."""


@dataclass(frozen=True)
class CardFacts:
    """All that a card is written from."""

    spec: StudySpec
    record: Record
    made: MadeModel
    form: Form
    measured: Row
    """Of the model in the folder."""
    lacking: list[str]
    """Why the report calls it not feasible; empty where it does not."""
    apart: tuple[str, float] | None
    """The column in which `measured` is furthest from the trial's row, and nats per token."""
    forget: ForgetSet
    licence: dict[str, str]
    """As in the front matter; the licence of the base model, or `unknown`."""
    differences: list[str]
    """Fields in which the config is not that of the vanilla model."""
    attacks: tuple[AttackOutcome, ...]
    claims: list[str] | None
    """Ids of the claims of the study's report; None where there is no report."""

    @property
    def base(self) -> str:
        """The vanilla model in words: no path of this machine."""
        source = self.spec.model.source
        return Path(source).name if is_on_this_machine(source) else source


def card_facts(
    study: Path,
    models: TrialModels,
    made: MadeModel,
    measured: Row,
    lacking: list[str],
    texts: list[str],
    folder: Path,
    form: Form,
) -> CardFacts:
    """Gather what the card of a model says.

    Args:
        study: study directory, or a copy of it.
        models: of the study.
        made: the model.
        measured: its row, of what was written.
        lacking: as `why_not_feasible`.
        texts: of the forget set.
        folder: where it was written.
        form: in which.
    """
    spec, data = models.single.spec, models.single.workspace.data
    tokens = data.splits["forget"]
    return CardFacts(
        spec=spec,
        record=models.record,
        made=made,
        form=form,
        measured=measured,
        lacking=lacking,
        apart=None if made.row is None else largest_difference(made.row, measured),
        forget=ForgetSet(
            name=_forget_name(spec),
            documents=len(tokens.selection),
            targets=int(tokens.target_mask.sum()),
            sha256=texts_digest(texts),
            tokens_digest=data.split_digests.get("forget", ""),
        ),
        licence=_licence(spec),
        differences=[] if form == "adapter" else config_differences(folder, spec.model),
        attacks=_attacks(study, made),
        claims=_claims(study, made.trial.method),
    )


def forget_texts(spec: StudySpec) -> list[str]:
    """The texts of the forget set, as their source has them."""
    return [document.text for document in read_documents(spec.data)["forget"]]


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 of the sorted SHA-256 digests of the texts, each in hexadecimal on a line.

    Whoever has the documents can compute it in any order; from it alone no text can be confirmed
    without all the others.
    """
    each = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return hashlib.sha256("".join(f"{one}\n" for one in each).encode()).hexdigest()


def is_on_this_machine(source: str) -> bool:
    """Whether a model's source means something on this machine alone."""
    return source.startswith("demo:") or not HUB_ID.fullmatch(source)


def _forget_name(spec: StudySpec) -> str:
    """What the study calls its domain, and where the set is from: a hub id or a file's name."""
    if spec.data.source is not None:
        return f"{spec.data.domain or spec.data.source} ({spec.data.source})"
    source = spec.data.splits["forget"]
    if source.hub is not None:
        parts = (source.config, source.split, source.revision)
        where = "/".join((source.hub, *(part for part in parts if part)))
    else:
        where = Path(source.path or "").name
    return f"{spec.data.domain or spec.name} ({where})"


def _licence(spec: StudySpec) -> dict[str, str]:
    """The licence that the base model's card states in its front matter, else its config."""
    stated = _front_matter(base_file(spec.model, CARD))
    if not isinstance(stated.get("license"), str):
        config = base_file(spec.model, CONFIG)
        stated = (None if config is None else values_in(config)) or {}
    found = {name: stated[name] for name in LICENCE_KEYS if isinstance(stated.get(name), str)}
    return found if "license" in found else {"license": UNKNOWN}


def _front_matter(card: Path | None) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty where there is none, or it is broken.

    It may have more than we accept in files of our own: then its licence is not known.
    """
    try:
        text = "" if card is None else given_text(card).replace("\r\n", "\n")
        parts = text.split("---\n", 2) if text.startswith("---\n") else []
        found = yaml_value(parts[1]) if len(parts) == 3 else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _attacks(study: Path, made: MadeModel) -> tuple[AttackOutcome, ...]:
    """What attacks measured on this very model; nothing where the file cannot be read."""
    key = ("", made.trial.number, *made.at)
    try:
        return next((one.outcomes for one in read_attacks(study) if one.key == key), ())
    except StorageError:
        return ()


def _claims(study: Path, method: str) -> list[str] | None:
    """Ids of what the study's own report claims of the method, or of all methods."""
    try:
        found = load_guidelines(study / "report" / "guidelines.json")
    except UserError:
        return None
    return [one.id for one in found.claimed if one.scope.method in (None, method)]
