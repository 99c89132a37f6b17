"""JSON Schemas of the files that people write, for editors.

They are those of the models, with what a file may say in short: a folder of search spaces instead
of the spaces, `space_overrides`, a bare value for a fixed hyperparameter, one entry for a list of
one. A study directory's `study.yaml`, where all is written out, is valid too. What a schema cannot
say (`low` below `high`) is checked on loading.
"""

from collections.abc import Mapping
from typing import Any

from ray_unlearn.spec.hyperparameters import Hyperparameters, values_class
from ray_unlearn.spec.method_modules import load_user_methods
from ray_unlearn.spec.method_registry import METHODS, value_type
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.study_file import WRITTEN_DEFAULTS
from ray_unlearn.spec.study_spec import StudySpec

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
RANGES: Mapping[type, tuple[str, ...]] = {float: ("FloatRange",), int: ("IntRange",), str: ()}
"""The ranges that a hyperparameter can have, by the type of its values."""


def study_schema() -> Schema:
    """The schema of a study file; a user's own methods are in it where they are installed."""
    load_user_methods()
    schema = StudySpec.model_json_schema()
    definitions, fields = schema["$defs"], schema["properties"]
    _add_parameters(definitions)
    _one_or_several(definitions["EvaluationSpec"]["properties"]["generate"])
    _require_one(definitions["EvaluationSpec"], "every", "at", "count")
    _require_one(definitions["SplitSource"], "hub", "path")
    _require_one(definitions["WatchedSet"], "hub", "path")
    fields["methods"]["items"] = {"enum": sorted(METHODS)}
    fields["methods"]["uniqueItems"] = True
    spaces = {name: {"$ref": "#/$defs/SearchSpace"} for name in sorted(METHODS)}
    by_method = {"type": "object", "properties": spaces, "additionalProperties": False}
    fields["spaces"] = {
        "title": "Spaces",
        "anyOf": [{"type": ["string", "null"]}, by_method],
        "description": "folder of search space files, relative to the study file; default: "
        "`search_spaces` beside it or above it, or the one installed with the package",
    }
    fields["space_overrides"] = {
        "title": "Space Overrides",
        "anyOf": [_parameters(), {"type": "null"}],
        "description": "ranges and values that replace those of all search spaces",
    }
    schema["required"] = ["model", "data"]
    for name, default in WRITTEN_DEFAULTS.items():
        fields[name] = {**fields[name], "default": default}
    return {"$schema": DIALECT} | schema


def search_space_schema() -> Schema:
    """The schema of a search space file, and of the fragments that it includes."""
    load_user_methods()
    schema = SearchSpace.model_json_schema()
    _add_parameters(schema["$defs"])
    schema["properties"] = {
        "method": {"enum": sorted(METHODS)},
        "include": {
            "type": "array",
            "items": {"type": "string"},
            "description": "fragments, relative to this file; later ones replace earlier ones",
        },
        "parameters": _parameters(),
    }
    del schema["required"]
    fragment = {"required": ["parameters"], "properties": {"include": False}}
    schema["anyOf"] = [{"required": ["method"]}, fragment]
    return {"$schema": DIALECT} | schema


def _add_parameters(definitions: Schema) -> None:
    """Make the parameters of a space those of the hyperparameters, with their own bounds."""
    for name, schema in _value_schemas().items():
        allowed = [{"$ref": f"#/$defs/{kind}"} for kind in RANGES[value_type(name)]]
        choices = {"properties": {"choices": {"items": schema}, "type": {"const": "choice"}}}
        fixed = {"properties": {"value": schema, "type": {"const": "fixed"}}}
        definitions[f"parameter_{name}"] = {
            "description": schema.get("description", ""),
            "anyOf": [
                _bare(schema),
                *({"required": ["type"], **one} for one in allowed),
                {"$ref": "#/$defs/Choice", **choices},
                {"$ref": "#/$defs/Fixed", **fixed},
            ],
        }
    if "SearchSpace" in definitions:
        definitions["SearchSpace"]["properties"]["method"] = {"enum": sorted(METHODS)}
        definitions["SearchSpace"]["properties"]["parameters"] = _parameters()


def _parameters() -> Schema:
    """A mapping of hyperparameters, of any method, to their ranges or values."""
    names = _value_schemas()
    return {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/parameter_{name}"} for name in names},
        "additionalProperties": False,
    }


def _value_schemas() -> dict[str, Schema]:
    """By hyperparameter, the schema of its values: type, bounds, options, meaning."""
    own = {one.name: one for method in METHODS.values() for one in method.own}
    found: dict[str, Schema] = {}
    for model in (Hyperparameters, values_class(tuple(own.values()))):
        found |= model.model_json_schema()["properties"]
    return {name: _without_default(schema) for name, schema in found.items()}


def _without_default(schema: Schema) -> Schema:
    """A default is of a trial: a search space that does not name it is no value of this file."""
    return {key: value for key, value in schema.items() if key not in ("default", "title")}


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "description"}


def _one_or_several(field: Schema) -> None:
    """Allow one entry instead of a list of one."""
    several = {key: field.pop(key) for key in ("items", "type")}
    field["anyOf"] = [several["items"], several]


def _require_one(definition: Schema, *names: str) -> None:
    """Require exactly one of some keys; `null`, as in a resolved file, is none."""
    definition["oneOf"] = [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names
    ]
