"""A mistake that a person makes, and the folder in which it is made: own data, model, study."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny import REPOSITORY, SIZES


@dataclass
class Workplace:
    """A folder with `study.yaml`, `data/*.jsonl` and `model/`, all of them right."""

    folder: Path
    content: dict[str, Any]
    """Of the study file, which is written after the mistake is made."""
    text: Callable[[str], str | bytes] = str
    """What becomes of the study file's text."""

    def data(self, split: str = "forget") -> Path:
        """The file of a split."""
        return self.folder / "data" / f"{split}.jsonl"

    @property
    def model(self) -> Path:
        """The folder of the model."""
        return self.folder / "model"

    def entries(self, split: str = "forget") -> list[dict[str, Any]]:
        """The documents of a split."""
        return [json.loads(line) for line in self.data(split).read_text().splitlines()]

    def write(self) -> None:
        """Write the study file."""
        made = self.text(yaml.safe_dump(self.content, sort_keys=False))
        path = self.folder / "study.yaml"
        if isinstance(made, bytes):
            path.write_bytes(made)
        else:
            path.write_text(made)


Change = Callable[[Workplace], None]


@dataclass(frozen=True)
class Mistake:
    """What is wrong, what the person types, and what the answer must say."""

    wrong: str
    change: Change
    words: tuple[str, ...]
    """Words of the answer: the place and the remedy."""
    command: tuple[str, ...] = ("run", "study.yaml")
    loads: bool = False
    """Known only when the model has been loaded; all others are known before."""


def workplace(folder: Path, text_files: Path, model: Path) -> Workplace:
    """A folder in which everything is right."""
    (folder / "data").mkdir()
    for name in SIZES:
        shutil.copy(text_files / f"{name}.jsonl", folder / "data")
    shutil.copytree(model, folder / "model")
    splits = {name: {"path": f"data/{name}.jsonl", "id": "id"} for name in SIZES}
    learning_rate = {"type": "float", "low": 1e-4, "high": 1e-2, "scale": "log"}
    content: dict[str, Any] = {
        "name": "mine",
        "model": {"source": "model"},
        "data": {"domain": "code", "sequence_length": 48, "splits": splits},
        "methods": ["gradient_ascent", "ascent_kl_in_distribution"],
        "spaces": str(REPOSITORY / "search_spaces"),
        "space_overrides": {
            "learning_rate": learning_rate,
            "steps": {"type": "int", "low": 1, "high": 4, "free": True},
            "batch_size": 4,
        },
        "search": {"sampler": "random", "trials_per_method": 2},
        "evaluation": {"at": [1, 2, 4], "batch_size": 8},
    }
    return Workplace(folder, content)


def nothing(place: Workplace) -> None:
    """The mistake is in the command."""


def key(path: str, value: Any) -> Change:
    """A value in the study file, by its dotted place."""

    def change(place: Workplace) -> None:
        content, names = place.content, path.split(".")
        for name in names[:-1]:
            content = content.setdefault(name, {})
        content[names[-1]] = value

    return change


def keys(**values: Any) -> Change:
    """Several values, with `__` for the dots of their places."""

    def change(place: Workplace) -> None:
        for path, value in values.items():
            key(path.replace("__", "."), value)(place)

    return change


def without(path: str) -> Change:
    """A key that is left out of the study file."""

    def change(place: Workplace) -> None:
        content, names = place.content, path.split(".")
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return change


def renamed(path: str, new: str) -> Change:
    """A key of the study file under another name."""

    def change(place: Workplace) -> None:
        content, names = place.content, path.split(".")
        for name in names[:-1]:
            content = content[name]
        content[new] = content.pop(names[-1])

    return change


def override(name: str, parameter: Any) -> Change:
    """An entry of `space_overrides`."""
    return key(f"space_overrides.{name}", parameter)


def written(text: Callable[[str], str | bytes]) -> Change:
    """The text of the study file, changed."""

    def change(place: Workplace) -> None:
        place.text = text

    return change


def documents(
    entries: Callable[[list[dict[str, Any]]], list[Any]], split: str = "forget"
) -> Change:
    """The documents of a split, changed."""

    def change(place: Workplace) -> None:
        made = entries(place.entries(split))
        lines = (one if isinstance(one, str) else json.dumps(one) for one in made)
        place.data(split).write_text("\n".join(lines) + "\n")

    return change


def data_bytes(made: Callable[[bytes], bytes], name: str = "forget.jsonl") -> Change:
    """The bytes of the forget set's file, perhaps under another name."""

    def change(place: Workplace) -> None:
        path = place.data().with_name(name)
        path.write_bytes(made(place.data().read_bytes()))
        place.content["data"]["splits"]["forget"]["path"] = f"data/{name}"

    return change


def model_config(**values: Any) -> Change:
    """Values in the model's config; None takes one out."""

    def change(place: Workplace) -> None:
        path = place.model / "config.json"
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def model_file(name: str, made: Callable[[bytes], bytes | None]) -> Change:
    """The bytes of a file of the model; None takes it away."""

    def change(place: Workplace) -> None:
        path = place.model / name
        content = made(path.read_bytes() if path.exists() else b"")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return change


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(place: Workplace) -> None:
        for one in changes:
            one(place)

    return change
