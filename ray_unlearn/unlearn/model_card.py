"""The card beside an exported model: what it was made from and how, in the hub's form."""

import json
import re
from pathlib import Path

from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row, RowKey

CARD = "README.md"
LICENCE = re.compile(r"^license: *(\S.*)$", re.MULTILINE)
SHOWN = (
    "forget_ppl", "approximate_ppl", "retain_ppl", "general_ppl", "mia_loss_auc_reporting",
    "score_selection", "score_reporting",
)  # fmt: skip


def write_card(
    folder: Path,
    spec: StudySpec,
    config: TrialConfig,
    trial_id: str,
    key: RowKey,
    row: Row | None = None,
) -> None:
    """Write the model card of a trial's model.

    Args:
        folder: of the exported model.
        spec: its study.
        config: its trial.
        trial_id: as in the study's ledger.
        key: the row's update and strength.
        row: its metrics, if it was evaluated.

    Raises:
        OSError: it cannot be written.
    """
    source, licence = spec.model.source, _licence(spec.model.source)
    front = {"base_model": source, "library_name": "transformers", "tags": ["unlearning"]}
    if licence:
        front["license"] = licence
    update, strength = key
    settings = config.model_dump(mode="json", exclude={"evaluate_at", "context"})
    lines = [
        "---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---", "",
        f"# {spec.name}: {config.method}", "",
        f"Made by ray-unlearn from `{source}` (revision {spec.model.revision or 'not pinned'}): "
        f"trial {trial_id} after update {update} at strength {strength:g}.", "",
        *_chosen_by(spec),
        "It was trained to forget the forget set of "
        f"{spec.data.domain or spec.data.source or 'its study'}. That it no longer shows that text "
        "is measured below, not proven: relearning and quantisation can bring text back.", "",
        "Licence: "
        + (f"that of the model it comes from, {licence}." if licence else
           "not known here; that of the model it comes from holds."), "",
        "| hyperparameter | value |", "|---|---|",
        *(f"| {name} | {value} |" for name, value in settings.items()), "",
        "| context | digest |", "|---|---|",
        f"| model, data, evaluation | {config.context or 'not known'} |",
        f"| study file | {digest(spec.model_dump(mode='json'))} |",
    ]  # fmt: skip
    measured = [f"| {name} | {row[name]:.6g} |" for name in SHOWN if row and name in row]
    if measured:
        lines += ["", "| metric | value |", "|---|---|", *measured]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _chosen_by(spec: StudySpec) -> list[str]:
    """What the study searched for, where it is more than the weighted sum."""
    written = spec.objective.beyond_weights()
    return [f"Its study's objective was `{written}`.", ""] if written else []


def _licence(source: str) -> str | None:
    """The licence in the card of a local model."""
    card = Path(source) / CARD
    try:
        found = LICENCE.search(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1].strip() if found else None
