"""Search space files: fragments, the file itself, and a study's overrides."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import METHODS, known_hyperparameters
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.strict import read_yaml, validated

WIDE = 100
"""Ratio of the ends of a range from which on its scale has to be said."""


def load_search_space(
    path: Path, overrides: dict[str, Any] | None = None, place: str = "overrides"
) -> SearchSpace:
    """Read a search space file, with the fragments it includes and a study's overrides.

    A later definition of a parameter replaces an earlier one whole: first the fragments under
    `include` in order, then the file itself, then the overrides. An override of a parameter that
    the method cannot use is skipped (a study sets `w_r` once for all methods).

    Args:
        path: the YAML file; where there is none, a user's method may bring its own space.
        overrides: by hyperparameter, the mapping of its range or value.
        place: where the overrides are written, for messages.

    Raises:
        UserError: missing file, unknown key, method or hyperparameter, low >= high, a grid value
            outside its range, a wide range without a scale, an override that leaves out whether
            steps are free.
    """
    content = read_yaml(path) if path.is_file() else _own_space(path) or read_yaml(path)
    merged: dict[str, Any] = {}
    includes = content.pop("include", [])
    if not isinstance(includes, list):
        raise UserError(f"{path}: include: must be a list of fragment files, got {includes!r}")
    for fragment in includes:
        # An absolute one stays as it is.
        fragment_path = path.parent / Path(str(fragment)).expanduser()
        body = read_yaml(fragment_path)
        unknown = set(body) - {"parameters"}
        if unknown:
            raise UserError(
                f"{fragment_path}: {sorted(unknown)[0]}: a fragment holds `parameters` only"
            )
        merged |= _parameters_of(body, fragment_path)
    merged |= _parameters_of(content, path)
    _check_scales(merged, str(path))
    method = METHODS.get(str(content.get("method")))
    used = {
        name: parameter
        for name, parameter in (overrides or {}).items()
        if not (method and name in known_hyperparameters() and name not in method.hyperparameters)
    }
    _check_scales(used, place)
    _check_free(merged, used, place)
    both = content | {"parameters": merged | used}
    try:
        return validated(SearchSpace, both, f"{place} (on {path})" if used else str(path))
    except UserError:
        if used:  # without the overrides it may be the file that is wrong
            validated(SearchSpace, content | {"parameters": merged}, str(path))
        raise


def packaged_spaces() -> Path:
    """The search spaces that come with the package."""
    return packaged_folder("search_spaces")


def packaged_folder(name: str) -> Path:
    """A folder of files that come with the package (in a checkout: beside it)."""
    package = Path(__file__).resolve().parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def _own_space(path: Path) -> dict[str, Any] | None:
    """The space that a user's method has where no file says another; None without one."""
    method = METHODS.get(path.stem)
    if method is None or method.space is None:
        return None
    fragments = ["learning_rate", "steps_free", "optimizer", *(["mixing"] if method.mixed else [])]
    return {
        "method": method.name,
        "include": [str(packaged_spaces() / f"shared/{name}.yaml") for name in fragments],
        "parameters": dict(method.space),
    }


def _check_scales(parameters: dict[str, Any], place: str) -> None:
    """Refuse a wide range without a scale.

    On a linear scale, most of its values would be of the largest magnitude.
    """
    wide: list[str] = []
    for name, parameter in parameters.items():
        if not isinstance(parameter, dict) or parameter.get("type") != "float":
            continue
        with suppress(KeyError, TypeError, ValueError):  # whatever else is wrong is said later
            low, high = float(parameter["low"]), float(parameter["high"])
            if 0 < WIDE * low <= high and "scale" not in parameter:
                wide.append(f"{name}: from {low:g} to {high:g}")
    if wide:
        raise UserError(
            f"{place}: {wide[0]}, and no `scale`; set `scale: log`, or `scale: linear` if half of "
            "the trials are to lie above the middle"
        )


def _check_free(before: dict[str, Any], overrides: dict[str, Any], place: str) -> None:
    """Refuse a range of steps that does not say whether they stay free, where they could."""
    steps, schedule = overrides.get("steps"), (before | overrides).get("schedule")
    was_free = isinstance(before.get("steps"), dict) and before["steps"].get("free")
    constant = not isinstance(schedule, dict) or schedule.get("value") == "constant"
    if not (was_free and constant and isinstance(steps, dict)):
        return
    if steps.get("type") == "int" and "free" not in steps:
        raise UserError(
            f"{place}: steps: they are free in the search space, and the override does not say so; "
            "set `free: true`, or `free: false` to sample them"
        )


def _parameters_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise UserError(
            f"{path}: parameters: must be a mapping of hyperparameter to range, got {parameters!r}"
        )
    return {name: _long_form(value) for name, value in parameters.items()}


def _long_form(value: Any) -> Any:
    """A parameter as a mapping: `batch_size: 8` is short for `{type: fixed, value: 8}`."""
    return value if isinstance(value, dict) else {"type": "fixed", "value": value}
