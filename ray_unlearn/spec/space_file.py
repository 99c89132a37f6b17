"""Search space files: fragments, the file itself, and a study's overrides."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_registry import METHODS, known_hyperparameters
from ray_unlearn.spec.places import Loc, YamlPlaces, dotted
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.strict import read_yaml, validated

WIDE = 100
"""Ratio of the ends of a range from which on its scale has to be said."""


def load_search_space(
    path: Path, overrides: dict[str, Any] | None = None, place: str | YamlPlaces = "overrides"
) -> SearchSpace:
    """Read a search space file, with the fragments it includes and a study's overrides.

    A later definition of a parameter replaces an earlier one whole: first the fragments under
    `include` in order, then the file itself, then the overrides. An override of a parameter that
    the method cannot use is skipped (a study sets `w_r` once for all methods).

    Args:
        path: the YAML file; where there is none, a user's method may bring its own space.
        overrides: by hyperparameter, the mapping of its range or value.
        place: where the overrides are written, for messages: each mistake is reported in the file
            that it is in.

    Raises:
        UserError: missing file, unknown key, method or hyperparameter, low >= high, a grid value
            outside its range, a wide range without a scale, an override that leaves out whether
            steps are free.
    """
    content = read_yaml(path) if path.is_file() else _own_space(path) or read_yaml(path)
    merged: dict[str, Any] = {}
    written: dict[str, Path] = {}
    """Where each parameter is written."""
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
        found = _parameters_of(body, fragment_path)
        merged |= found
        written |= dict.fromkeys(found, fragment_path)
    found = _parameters_of(content, path)
    merged |= found
    written |= dict.fromkeys(found, path)
    _check_scales(merged, lambda name: _placed(written[name], "parameters", name))
    method = METHODS.get(str(content.get("method")))
    used = {
        name: long_form(value, _override_place(place, name))
        for name, value in (overrides or {}).items()
        if not (method and name in known_hyperparameters() and name not in method.hyperparameters)
    }
    _check_scales(used, partial(_override_place, place))
    _check_free(merged, used, place)

    def where(loc: Loc, message: str) -> str:
        """In the study file if one of its overrides is wrong, else in the space's own files."""
        at = loc[1:] if loc[:1] == ("parameters",) else loc
        names = [str(at[0])] if at else re.findall(r"[`'](\w+)[`':]", message)
        inside = at[1:]
        for name in names:
            if name in used:
                return _override_place(place, name, *inside)
        for name in names:
            if name in written:
                return _placed(written[name], "parameters", name, *inside)
        return f"{_override_place(place)} (on {path})" if used and not loc else _placed(path, *loc)

    return validated(SearchSpace, content | {"parameters": merged | used}, where)


def _override_place(place: str | YamlPlaces, *loc: str | int) -> str:
    if isinstance(place, YamlPlaces):
        return place(loc)
    return f"{place}: {dotted(loc)}" if loc else place


def _placed(path: Path, *loc: str | int) -> str:
    return YamlPlaces(path)(loc)


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


def _check_scales(parameters: dict[str, Any], place: Callable[[str], str]) -> None:
    """Refuse a wide range without a scale.

    On a linear scale, most of its values would be of the largest magnitude.
    """
    wide: dict[str, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, dict) or parameter.get("type") != "float":
            continue
        with suppress(KeyError, TypeError, ValueError):  # whatever else is wrong is said later
            low, high = float(parameter["low"]), float(parameter["high"])
            if not (0 < WIDE * low <= high) or "scale" in parameter:
                continue
            wide[name] = f"from {low:g} to {high:g}"
    for name, said in wide.items():
        raise UserError(
            f"{place(name)}: {said}, and no `scale`; set `scale: log`, or `scale: linear` if half "
            "of the trials are to lie above the middle"
        )


def _check_free(before: dict[str, Any], overrides: dict[str, Any], place: str | YamlPlaces) -> None:
    """Refuse a range of steps that does not say whether they stay free, where they could."""
    steps, schedule = overrides.get("steps"), (before | overrides).get("schedule")
    was_free = isinstance(before.get("steps"), dict) and before["steps"].get("free")
    constant = not isinstance(schedule, dict) or schedule.get("value") == "constant"
    if not (was_free and constant and isinstance(steps, dict)):
        return
    if steps.get("type") == "int" and "free" not in steps:
        raise UserError(
            f"{_override_place(place, 'steps')}: they are free in the search space, and the "
            "override does not say so; set `free: true`, or `free: false` to sample them"
        )


def _parameters_of(content: dict[str, Any], path: Path) -> dict[str, Any]:
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise UserError(
            f"{path}: parameters: must be a mapping of hyperparameter to range, got {parameters!r}"
        )
    return {
        name: long_form(value, _placed(path, "parameters", name))
        for name, value in parameters.items()
    }


def long_form(value: Any, place: str) -> dict[str, Any]:
    """A parameter as a mapping: `batch_size: 8` is short for `{type: fixed, value: 8}`.

    Raises:
        UserError: it is nothing, or a list.
    """
    if isinstance(value, list):
        raise UserError(
            f"{place}: a list; write `{{type: choice, choices: [...]}}` for some values, "
            "`{type: float, low: ..., high: ...}` for a range"
        )
    if value is None:
        raise UserError(f"{place}: has no value; give one, or remove the key")
    return value if isinstance(value, dict) else {"type": "fixed", "value": value}
