"""Evaluations of OpenUnlearning as records: `*_SUMMARY.json` or `*_EVAL.json` in folders.

Hyperparameters come from the training's `.hydra/config.yaml` where it lies beside or above, else
from the folder's name, as in `..._GradDiff_lr1e-05_alpha5_epoch10`.
"""

import re
from pathlib import Path
from typing import Any

from ray_unlearn.analysis.read.record_files import loaded
from ray_unlearn.analysis.read.text_tables import flattened
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.spec.strict import yaml_value

METHODS = (
    "GradAscent", "GradDiff", "NPO", "SimNPO", "DPO", "IdkDPO", "IdkNLL", "RMU", "UNDIAL", "AltPO",
    "CEU", "SatImp", "WGA", "PDU", "retain", "full",
)  # fmt: skip
IN_NAME = re.compile(
    r"(?:^|_)(lr|wd|alpha|beta|gamma|delta|epochs?|scoeff|layer|bs)(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=_|$)"
)
WHOLE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "epoch": "num_train_epochs",
    "epochs": "num_train_epochs",
    "bs": "per_device_train_batch_size",
}
"""Abbreviations in names of folders, as the configuration has them."""
SPLIT = re.compile(r"(?:^|_)(forget\d+)(?=_|$)")
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
INNER = ("evals", "eval")
NO_PARAMETERS = re.compile(r"(dir|path|name|strategy|steps_total|logging|report|save|do_|eval)")


def open_unlearning_records(folder: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """One record for each evaluated model, and the files they were read from.

    Raises:
        UserError: an evaluation is damaged.
    """
    files = sorted(folder.rglob("*_SUMMARY.json")) or sorted(folder.rglob("*_EVAL.json"))
    by_model: dict[Path, dict[str, Any]] = {}
    for file in files:
        by_model.setdefault(file.parent, {}).update(_metrics(file))
    return [_record(folder, place, found) for place, found in by_model.items()], files


def _metrics(file: Path) -> dict[str, float]:
    """Each metric's number: of a summary as it is, of an evaluation its `agg_value`."""
    try:
        content = json_value(given_bytes(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no record of metrics")
    values = {
        name: value.get("agg_value") if isinstance(value, dict) else value
        for name, value in content.items()
    }
    return {
        f"metrics.{name}": float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _record(folder: Path, place: Path, metrics: dict[str, float]) -> dict[str, Any]:
    parts = [part for part in place.relative_to(folder).parts if part not in INNER]
    steps = [int(found[1]) for part in parts if (found := CHECKPOINT.fullmatch(part))]
    task = "/".join(part for part in parts if not CHECKPOINT.fullmatch(part)) or folder.name
    known = _configured(folder, place) or _from_name(task)
    return {"task": task, **known, **metrics, **({"checkpoint": steps[-1]} if steps else {})}


def _configured(folder: Path, place: Path) -> dict[str, Any]:
    """Method, model and hyperparameters as Hydra recorded them; nothing where no training did."""
    for above in (place, *place.parents):
        file = above / ".hydra" / "config.yaml"
        if file.is_file() and isinstance(
            trainer := (config := loaded(file, yaml_value)).get("trainer"), dict
        ):
            args = {**(trainer.get("args") or {}), **(trainer.get("method_args") or {})}
            found = {"method": trainer.get("handler"), "forget_split": config.get("forget_split")}
            model = (config.get("model") or {}).get("model_args") or {}
            found["model"] = model.get("pretrained_model_name_or_path")
            flat = flattened(args, "config/")
            kept = {key: v for key, v in flat.items() if not NO_PARAMETERS.search(key[7:])}
            return {key: v for key, v in found.items() if v is not None} | kept
        if above == folder:
            break
    return {}


def _from_name(task: str) -> dict[str, Any]:
    """What the folder's name tells."""
    found: dict[str, Any] = {
        f"config/{WHOLE.get(key, key)}": float(v) for key, v in IN_NAME.findall(task)
    }
    methods = [name for name in METHODS if re.search(rf"(?:^|_|/){name}(?=_|/|$)", task)]
    if methods:
        found["method"] = methods[0]
    if split := SPLIT.search(task):
        found["forget_split"] = split[1]
    return found
