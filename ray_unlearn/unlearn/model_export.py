"""`export` of a model: refused, made, written, measured again from what was written, described.

Nothing of it can be seen before all is done: the folder appears whole, or not at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.store.atomic_write import whole_folder
from ray_unlearn.store.feasibility import best_feasible, why_not_feasible
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule
from ray_unlearn.store.storage import Storage
from ray_unlearn.unlearn.card_facts import CardFacts, card_facts, forget_texts
from ray_unlearn.unlearn.model_card import write_card
from ray_unlearn.unlearn.same_model import SAME_NLL, check_same, largest_difference
from ray_unlearn.unlearn.trial_model import (
    MadeModel,
    Say,
    TrialModels,
    chosen_for_export,
    row_at,
)
from ray_unlearn.unlearn.written_model import CONFIG, Form, check_written_tokenizer


class NotFeasible(UserError):
    """The report calls the model not feasible, and nobody said `--anyway`."""


def check_output(output: Path) -> None:
    """Refuse a folder that is in use.

    Raises:
        UserError: it is a file, or not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists and is not empty; name a new folder")


def export_model(
    study: Path,
    storage: Storage,
    output: Path,
    trial: str,
    update: int | None,
    say: Say,
    strength: float | None = None,
    *,
    form: Form = "merged",
    anyway: bool = False,
) -> None:
    """Write the model of a trial as a Hugging Face folder with its tokenizer and a card.

    What was written is read again, measured, and compared with the trial's row; the card has the
    numbers of that measurement.

    Args:
        study: study directory, or a copy of it.
        storage: where the study's weights are.
        output: folder for the model; must be new or empty.
        trial: id or number of the trial, or `best`.
        update: the update to stop at; None: that of the row that scores the trial.
        say: called with each line of progress.
        strength: a in W_0 + a (W_t - W_0); None: that of the row that scores the trial, or 1 if
            `update` is given.
        form: as `checked_form` has it.
        anyway: also a model that the report calls not feasible.

    Raises:
        NotFeasible: the report calls it so.
        UserError: no such trial or update, no score, `output` is in use, model or data have
            changed since, the trial diverges, or what was written is not the model that was
            measured.
        StorageError: the study cannot be read or the model cannot be written.
    """
    check_output(output)
    models = TrialModels(study, storage, say)
    chosen, at = chosen_for_export(models.spec, models.record, trial, update, strength)
    row = row_at(chosen, at)
    if row is not None:
        _refuse(row, models, anyway)
    made = models.make(trial, update, strength)
    check_same(models.single.workspace, made, models.spec.model.dtype)
    texts = forget_texts(models.single.spec)
    try:
        with _whole(output) as draft:
            models.single.save(draft, form)
            say("measuring what was written")
            measured = _measured(models, made, draft, form)
            check_written_tokenizer(draft, models.single.spec.model, texts)
            lacking = _refuse(measured, models, anyway)
            facts = card_facts(study, models, made, measured, lacking, texts, draft, form)
            write_card(draft, facts)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{output}: the model cannot be written: {error}") from None
    say(_agreement(facts))
    say(f"model: {output} ({made.how})")


def _refuse(row: Row, models: TrialModels, anyway: bool) -> list[str]:
    """What keeps a row from being feasible; raises `NotFeasible` unless it is wanted anyway."""
    record, rule = models.record, ScoreRule.of(models.record, models.spec)
    lacking = why_not_feasible(row, record.baselines.get("vanilla"), rule.objective)
    if lacking and not anyway:
        found = best_feasible(rule, record)
        other = (
            "no trial has a score at a feasible row: run more trials"
            if found is None
            else f"trial {found[0].number} is feasible (score {found[1][OBJECTIVE]:.4g}): export it"
        )
        raise NotFeasible(
            f"the report calls this model not feasible (reporting half): {'; '.join(lacking)}; "
            f"{other}, or give --anyway (in Python `anyway=True`) to have this one all the same"
        )
    return lacking


def _measured(models: TrialModels, made: MadeModel, folder: Path, form: Form) -> Row:
    """A row of the model in the folder, which must be that of the ledger."""
    single, record = models.single, models.record
    found = single.measure_written(folder, form)
    baselines = Baselines(record.baselines["vanilla"], record.baselines.get("exact_retrain"))
    row = scored(found, baselines, single.spec.objective.weights, single.objective)
    if made.row is None:
        return row
    metric, apart = largest_difference(made.row, row)
    most = SAME_NLL[single.spec.model.dtype]
    if not apart <= most:
        adapters = single.spec.model.lora is not None and form == "merged"
        remedy = (
            "adding adapters to low-precision weights rounds them away; use `--form adapter`"
            if adapters
            else "nothing was kept; please report this with the model's name"
        )
        raise UserError(
            f"trial {made.trial.number}, update {made.at[0]}: the model that was written has "
            f"{metric} {row[metric]:.4f}, its row in the ledger {made.row[metric]:.4f} (at most "
            f"{most:g} nats/token apart): {remedy}"
        )
    return row


def _agreement(facts: CardFacts) -> str:
    if facts.apart is None:
        return "measured from the folder; no evaluation row of this update to compare it with"
    metric, apart = facts.apart
    return f"measured from the folder: within {apart:.2g} nats/token of the trial's row ({metric})"


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A draft that becomes `output`.

    An empty folder that is there may be one where a disk is mounted, which nothing can replace:
    then the files move into it, config last, as without one nothing loads the rest.
    """
    if not output.exists():
        with whole_folder(output) as draft:
            yield draft
        return
    with whole_folder(output / "model") as draft:
        yield draft
    inner = output / "model"
    for path in sorted(inner.iterdir(), key=lambda path: path.name == CONFIG):
        path.rename(output / path.name)
    inner.rmdir()
