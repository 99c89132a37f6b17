"""Study files: YAML read, search spaces loaded, relative paths made absolute."""

import os
import re
from pathlib import Path
from typing import Any, TypeVar

from ray_unlearn.spec.data_spec import EXAMPLES, SplitSource
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.evaluation_spec import WatchedSet
from ray_unlearn.spec.method_registry import PUBLISHED, known_hyperparameters, method_named
from ray_unlearn.spec.places import YamlPlaces
from ray_unlearn.spec.space_file import load_search_space, packaged_spaces
from ray_unlearn.spec.strict import read_yaml, validated
from ray_unlearn.spec.study_spec import StudySpec

TRIALS = 8
"""Of each method, where a file does not say: what a comparison of methods needs."""

Source = TypeVar("Source", bound=SplitSource)
WRITTEN_DEFAULTS: dict[str, Any] = {
    "search": {"trials_per_method": TRIALS},
    "evaluation": {"count": 8},
}
"""What a study file means that leaves these out. Eight trials are what a comparison of methods
needs of each; `resume --trials` adds more."""


def load_study(path: Path, operations: dict[str, Any] | None = None) -> StudySpec:
    """Read a study file, load its search spaces, and make relative paths absolute.

    In the file, `spaces` is a folder of search space files (default: `search_spaces` beside the
    study file, in the folder above it, or the one installed with the package), and
    `space_overrides` replaces parameters in all of them. A resolved study (as kept in a study
    directory) holds the spaces themselves.

    Args:
        path: the YAML file.
        operations: values that replace those of the `operations` section (from the command line).

    Raises:
        UserError: every problem found at the first level that has one, each with file, field, value
            and remedy.
    """
    path = path.expanduser()
    content = _with_defaults(read_yaml(path), path)
    overrides = content.pop("space_overrides", None)
    methods = content.get("methods", list(PUBLISHED))
    if not isinstance(methods, list) or not methods:
        raise UserError(f"{path}: methods: must be a list of method names, got {methods!r}")
    for name in methods:
        try:
            method_named(str(name))
        except UserError as error:
            raise UserError(f"{YamlPlaces(path)(('methods',))}: {error}") from None
    spaces = content.get("spaces")
    if isinstance(spaces, str) or spaces is None:
        if overrides is not None and not isinstance(overrides, dict):
            raise UserError(
                f"{path}: space_overrides: must be a mapping of hyperparameter to range"
            )
        folder = _spaces_folder(path, spaces)
        place = YamlPlaces(path, ("space_overrides",))
        loaded = {
            name: load_search_space(folder / f"{name}.yaml", overrides, place) for name in methods
        }
        content["spaces"] = {name: space.model_dump(mode="json") for name, space in loaded.items()}
    elif overrides:
        raise UserError(
            f"{path}: space_overrides: only with `spaces` as a folder; edit the spaces themselves"
        )
    if operations:
        content["operations"] = (content.get("operations") or {}) | operations
    spec = validated(StudySpec, content, YamlPlaces(path))
    _check_overrides(path, overrides or {}, spec.methods)
    return _with_absolute_paths(spec, path.parent)


def _with_defaults(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The file with what it may leave out: a model and a forget set make a study."""
    bare = re.sub(r"[^A-Za-z0-9._-]|^[._-]+", "", path.stem)[:64] or "study"
    content = {"name": bare, **WRITTEN_DEFAULTS, **content}
    data = content.get("data")
    if isinstance(data, dict) and data.get("splits"):
        content["data"] = {"domain": str(content["name"])} | data
    return content


def _check_overrides(path: Path, overrides: dict[str, Any], methods: tuple[str, ...]) -> None:
    """Refuse an override that no method of the study uses; it would be ignored silently."""
    used = {name for method in methods for name in method_named(method).hyperparameters}
    for name in overrides:
        if name in known_hyperparameters() and name not in used:
            raise UserError(
                f"{YamlPlaces(path)(('space_overrides', name))}: no method of this study uses it "
                f"({', '.join(methods)}); remove it"
            )


def _spaces_folder(path: Path, given: str | None) -> Path:
    if given is not None:
        folder = _below(path.parent, given)
        if not folder.is_dir():
            raise UserError(f"{path}: spaces: no such folder: {folder}")
        return folder
    candidates = [
        path.parent / "search_spaces",
        path.parent.parent / "search_spaces",
        packaged_spaces(),
    ]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(
        f"{path}: spaces: no `search_spaces` folder found; name one with `spaces: <folder>`"
    )


def _with_absolute_paths(spec: StudySpec, base: Path) -> StudySpec:
    def absolute(source: Source) -> Source:
        if source.path is None:
            return source
        return source.model_copy(update={"path": str(_below(base, source.path).resolve())})

    splits = {name: absolute(source) for name, source in spec.data.splits.items()}
    pool = None if spec.data.pool is None else absolute(spec.data.pool)
    sets: dict[str, WatchedSet] = {
        name: absolute(one).model_copy(
            update={EXAMPLES: None if one.examples is None else absolute(one.examples)}
        )
        for name, one in spec.evaluation.sets.items()
    }
    tasks = tuple(
        task.model_copy(update={"task": str(_below(base, task.task).resolve())})
        if task.is_file
        else task
        for task in spec.evaluation.tasks
    )
    model = spec.model
    places: dict[str, Any] = {
        field: model_place(base, value, model.revision, f"model.{field}")
        for field in ("source", "exact_retrain")
        if (value := getattr(model, field))
    }
    places["exact_retrain_seeds"] = tuple(
        model_place(base, value, model.revision, "model.exact_retrain_seeds")
        for value in model.exact_retrain_seeds
    )
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"splits": splits, "pool": pool}),
            "evaluation": spec.evaluation.model_copy(update={"sets": sets, "tasks": tasks}),
            "model": model.model_copy(update=places),
        }
    )


def _below(base: Path, given: str) -> Path:
    return base / os.path.expanduser(given)


def model_place(base: Path, given: str, revision: str | None, where: str) -> str:
    """A model's folder as an absolute path; a hub id or a demo model as it is.

    Whether the folder is there is asked when the model is needed: a study's model may be gone when
    its report is made.

    Raises:
        UserError: it looks like a folder beside others, and there is none of that name.
    """
    path = _below(base, given)
    if is_path(given) or path.exists():
        return str(path.resolve())
    if "/" in given and revision is None and path.parent.is_dir():
        hint = nearest(path.name, _names_in(path.parent))
        raise UserError(
            f"{where}: no such folder: {path}{hint} (for the hub's {given!r} set `model.revision`)"
        )
    return given


def is_path(given: str) -> bool:
    """Whether a model's source can only be a path: a hub id is `name` or `owner/name`."""
    if "://" in given:  # said by who looks for the model
        return False
    return given.startswith((".", "/", "~")) or given.endswith("/") or given.count("/") > 1


def _names_in(folder: Path) -> list[str]:
    return [other.name for other in folder.iterdir() if not other.name.startswith(".")]


def where_it_is_now(spec: StudySpec, folder: Path) -> StudySpec:
    """The ledger's spec with the places and operations of `study.yaml`, as a study may have moved.

    Args:
        spec: the spec in the ledger's header.
        folder: the study's folder; without a `study.yaml` in it the spec is returned unchanged.

    Raises:
        UserError: `study.yaml` cannot be read.
    """
    path = folder / "study.yaml"
    if not path.exists():
        return spec
    now = load_study(path)
    asked = {"sets": now.evaluation.sets, "tasks": now.evaluation.tasks}
    places = {
        "model": now.model,
        "data": now.data,
        "operations": now.operations,
        "evaluation": spec.evaluation.model_copy(update=asked),
    }
    return spec.model_copy(update=places)
