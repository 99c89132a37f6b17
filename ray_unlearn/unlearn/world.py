"""A world: models with injected memory, their exactly retrained twin, documents and a study file.

Stages, each made whole or not at all, and skipped where its folder exists and was made from the
same things:

    data/        a JSONL file for each split
    vanilla/     the model, trained further on the forget and retain sets
    retrained/   the same without the forget set
    world.json   perplexities of every split and the AUC of the loss attack, for all three models
    study.yaml   a study of it
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.store.atomic_write import whole_folder, write_whole
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.injection import (
    Learning,
    baseline_metrics,
    learn,
)
from ray_unlearn.unlearn.model import model_digest

MADE_FROM = "made_from.json"
"""In each stage's folder: what it was made from, so that it is not taken for another."""
ALIKE = 2.5
"""Standard errors of an AUC beyond which two sets of documents are said to differ."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class World:
    """A world on disk.

    Attributes:
        folder: all of it.
        vanilla: the model that knows the forget set, a Hugging Face folder.
        retrained: its twin that does not.
        study: the study file; None where none was asked for.
        metrics: by model (`original`, `vanilla`, `retrained`): `<split>_ppl` and `mia_loss_auc`.
        notes: what to know before it is used.
    """

    folder: Path
    vanilla: Path
    retrained: Path
    study: Path | None
    metrics: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()


def made_once(
    folder: Path, origin: Mapping[str, Any], make: Callable[[Path], None], say: Say
) -> None:
    """Make a stage's folder, unless it is there.

    Args:
        folder: of the stage.
        origin: everything that decides its content; stored with it.
        make: called with an empty folder to fill.
        say: called with a line of progress.

    Raises:
        UserError: it is there, but was made from something else.
        StorageError: it cannot be written.
    """
    if folder.is_dir():
        _refuse_another_origin(folder, origin)
        say(f"{folder.name}/ is there")
        return
    say(f"making {folder.name}/")
    try:
        with whole_folder(folder) as draft:
            make(draft)
            (draft / MADE_FROM).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}") from None


def _refuse_another_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    try:
        before = json_value(given_bytes(folder / MADE_FROM))
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: has no {MADE_FROM} that says what it was made from; choose another --out, "
            "or remove the folder"
        ) from None
    now = json.loads(json.dumps(origin))
    for name in now.keys() | before.keys():
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder}: was made from another `{name}` ({before.get(name)!r}, now "
                f"{now.get(name)!r}); choose another --out, or remove the folder"
            )


def make_models(
    out: Path,
    spec: ModelSpec,
    data: StudyData,
    learning: Learning,
    beside: Sequence[str],
    say: Say,
) -> World:
    """Train vanilla and retrained model, and measure them and the original.

    Args:
        out: folder of the world.
        spec: the original model.
        data: its splits.
        learning: how memory is injected.
        beside: splits that both models learn; the vanilla one learns the forget set too.
        say: called with each line of progress.

    Raises:
        UserError: a model that is there was made from something else.
        StorageError: `out` cannot be written, or lacks space.
    """
    remove_drafts(out)
    digest = model_digest(spec)
    sets = {"vanilla": ("forget", *beside), "retrained": tuple(beside)}
    for role, splits in sets.items():
        origin = {
            "model": digest,
            "documents": {name: data.split_digests[name] for name in splits},
            "dtype": spec.dtype,
        } | asdict(learning)
        tokens = [data.splits[name] for name in splits]
        made_once(
            out / role,
            origin,
            lambda folder, tokens=tokens, role=role: learn(  # type: ignore[misc]
                spec, tokens, learning, folder, lambda text: say(f"{role}: {text}")
            ),
            say,
        )
    metrics = _measured(out, spec, data, learning.batch_size, digest, say)
    return World(
        out, out / "vanilla", out / "retrained", None, metrics, tuple(_notes(metrics, data))
    )


def _measured(
    out: Path, spec: ModelSpec, data: StudyData, batch_size: int, digest: str, say: Say
) -> dict[str, dict[str, float]]:
    """The content of world.json; measured anew only if the models or documents are others."""
    path = out / "world.json"
    roles = ("vanilla", "retrained")
    about: dict[str, Any] = {
        "model": digest,
        "data": data.digest,
        "sequences": {name: len(tokens) for name, tokens in data.splits.items()},
        "training": {
            role: json.loads((out / role / "training.json").read_text()) for role in roles
        },
    }
    if path.is_file():
        before = json.loads(path.read_text())
        if all(before.get(name) == value for name, value in about.items()):
            return dict(before["metrics"])
    say("measuring the models")
    sources = {"original": None} | {role: str(out / role) for role in roles}
    metrics = {
        name: baseline_metrics(spec, data, batch_size, source) for name, source in sources.items()
    }
    versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
    content = about | {"metrics": metrics, "versions": versions}
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
    return metrics


def _notes(metrics: Mapping[str, Mapping[str, float]], data: StudyData) -> list[str]:
    """What is wrong with a world, if anything is."""
    sizes = [len(data.splits[name].selection) for name in ("forget", "approximate")]
    error = math.sqrt(sum(1 / size for size in sizes) / 12)  # of the AUC of two equal sets
    vanilla, retrained = (metrics[role]["mia_loss_auc"] for role in ("vanilla", "retrained"))
    notes = []
    if vanilla < 0.5 + ALIKE * error:
        notes.append(
            f"the vanilla model hardly knows the forget set (AUC of the loss attack {vanilla:.2f}, "
            f"standard error {error:.2f}): more epochs or a higher learning rate"
        )
    if abs(retrained - 0.5) > ALIKE * error:
        notes.append(
            f"the forget and approximate sets differ even for a model that knows neither (AUC of "
            f"the loss attack {retrained:.2f}, standard error {error:.2f}): the approximate target "
            "is off by as much; leave the approximate set out to have the forget set dealt"
        )
    return notes


def check_space(out: Path, needed_bytes: float) -> None:
    """Refuse a disk without room for the models that are not there yet.

    Raises:
        StorageError: with both sizes.
    """
    there = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise StorageError(
            f"{out}: the models need {needed_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free; free space, or choose another --out"
        )


def remove_drafts(out: Path) -> None:
    """Delete what a killed build left behind."""
    for draft in out.glob("*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)
