"""Pages of the site that are made from the package: commands, Python names, fields of files.

Nothing here needs torch or Ray: `make site` has an environment of its own.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import ray_unlearn
from ray_unlearn.cli import HEADINGS
from ray_unlearn.cli.main import app

REPOSITORY = Path(__file__).parent.parent
PARAMETER = "parameter_"
"""Begins the names of schema definitions that stand for one hyperparameter."""
LONGEST_DEFAULT = 60
NO_BOUND = 1e18
"""A number that only keeps overflow out."""
FIRST = ("run", "open", "Study", "guidelines", "Guide", "report", "Report", "narrow", "memorise")
"""Public names in the order in which a reader needs them; all others follow."""

SCHEMAS = {
    "study": ("The study file", "What `run`, `plan` and `doctor` read."),
    "search_space": ("The search space file", "What `spaces:` and `--space` of a study name."),
    "guidelines": ("guidelines.json", "What `report` writes and `--space-from` reads."),
}
"""By the stem of a schema's file, the page's title and what the file is for."""

PYTHON = """# Python reference

The public names of `ray_unlearn`, from their docstrings; [from Python](../docs/api.md) shows them
at work. Importing the package takes hundredths of a second: Ray, torch and pandas are loaded when
something needs them.

"""
COMMANDS = """# Command line

What `ray-unlearn COMMAND --help` says. [Quick start](../docs/quick_start.md) shows the commands at
work, and says what the exit codes mean.

"""


def python_page() -> str:
    """A directive for each public name, which the generator replaces by its docstring."""
    others = [name for name in ray_unlearn.__all__ if name not in (*FIRST, "__version__")]
    return PYTHON + "".join(f"::: ray_unlearn.{name}\n\n" for name in (*FIRST, *sorted(others)))


def commands_page() -> str:
    """The help of every command, under the headings of `ray-unlearn --help`."""
    group: Any = typer.main.get_command(app)
    parts = [COMMANDS]
    for heading, commands in HEADINGS.items():
        parts.append(f"## {heading}\n\n")
        parts += [_command(group.commands[name], name) for name in commands]
    return "".join(parts)


def _command(command: Any, name: str) -> str:
    """Usage, docstring and options of one command."""
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=100)
    context.info_name = f"ray-unlearn {name}"
    usage = " ".join(command.collect_usage_pieces(context))
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [(f"`{given}`", _plainly(said)) for given, said in filter(None, records)]
    words = _plainly((command.help or "").strip())
    head = f"### {name}\n\n{words}\n\n```\nray-unlearn {name} {usage}\n```\n\n"
    return head + _table(("option", ""), rows) + "\n"


def _plainly(text: str) -> str:
    """Words of a terminal, in which a `<` is no tag and a `*` no emphasis; code stays code."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([<*_])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def schema_page(stem: str) -> str:
    """The fields of one kind of file, from its JSON Schema."""
    title, purpose = SCHEMAS[stem]
    schema = json.loads((REPOSITORY / f"docs/schema/{stem}.schema.json").read_text("utf-8"))
    definitions = schema["$defs"]
    parts = [
        f"# {title}\n\n{purpose} The JSON Schema, which this page is made from: "
        f"[{stem}.schema.json](../docs/schema/{stem}.schema.json).\n\n",
        _fields(schema),
    ]
    for name, definition in definitions.items():
        if "properties" in definition and not name.startswith(PARAMETER):
            parts.append(f"## {name}\n\n{_sentence(definition.get('description', ''))}")
            parts.append(_fields(definition))
    parameters = {
        name.removeprefix(PARAMETER): definition
        for name, definition in definitions.items()
        if name.startswith(PARAMETER)
    }
    if parameters:
        parts.append(
            "## Hyperparameters\n\nEach is a value, or a range, a choice or a fixed value as above."
            " Which method has which: [methods](../docs/methods.md).\n\n"
        )
        rows = [(f"`{name}`", _kind(one["anyOf"][0]), one["description"])
                for name, one in parameters.items()]  # fmt: skip
        parts.append(_table(("name", "value", ""), rows))
    return "".join(parts)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        said = field.get("description", "")
        default = json.dumps(field["default"], ensure_ascii=False) if "default" in field else ""
        if 0 < len(default) <= LONGEST_DEFAULT:
            said = f"{said} (default: `{default}`)".strip()
        rows.append((f"`{name}`" + (" *" if name in required else ""), _kind(field), said))
    star = "\n\\* must be given\n\n" if required else "\n"
    return _table(("field", "value", ""), rows) + star


def _kind(field: dict[str, Any]) -> str:
    """A field's type in words, with links to the parts of the page that describe it."""
    return " or ".join(dict.fromkeys(_kinds(field))) or "any"


def _kinds(field: dict[str, Any]) -> Iterator[str]:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        hyperparameter = name.startswith(PARAMETER)
        anchor = "hyperparameters" if hyperparameter else name.lower()
        yield f"[{name.removeprefix(PARAMETER)}](#{anchor})"
    elif "anyOf" in field or "oneOf" in field:
        for one in field.get("anyOf", field.get("oneOf")):
            yield from _kinds(one)
    elif "gradient_ascent" in field.get("enum", ()):
        yield "[method](../docs/methods.md)"
    elif "enum" in field:
        yield ", ".join(f"`{value}`" for value in field["enum"])
    elif "const" in field:
        yield f"`{field['const']}`"
    else:
        named = field.get("type", ())
        for name in [named] if isinstance(named, str) else named:
            yield _plain(name, field)


def _plain(name: str, field: dict[str, Any]) -> str:
    if name == "array":
        return f"list of {_kind(field['items'])}" if "items" in field else "list"
    if name == "object":
        inner = field.get("additionalProperties")
        if isinstance(inner, dict) and inner:
            return f"names to {_kind(inner)}"
        members = field.get("properties") or field.get("patternProperties") or {}
        common = {json.dumps(one, sort_keys=True) for one in members.values()}
        if len(common) == 1:
            return f"names to {_kind(next(iter(members.values())))}"
        hyperparameters = members and all(PARAMETER in one for one in common)
        return "[hyperparameters](#hyperparameters) by name" if hyperparameters else "mapping"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    return words.get(name, name) + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    given = [f"{sign} {field[key]:g}" for key, sign in signs.items()
             if key in field and abs(field[key]) < NO_BOUND]  # fmt: skip
    return f" {', '.join(given)}" if given else ""


def _sentence(text: str) -> str:
    return f"{text}\n\n" if text else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the generator takes a `|` in code for what it is."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(" ".join(cell.split()) for cell in line) + " |\n" for line in lines
    )
