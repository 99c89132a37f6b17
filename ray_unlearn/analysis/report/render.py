"""From what there is to say to pages: HTML and Markdown from the same context."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ray_unlearn.analysis.figures.look import look
from ray_unlearn.analysis.report.table_view import Shown
from ray_unlearn.store.schema import COLUMNS


def render(context: dict[str, Any], methods: Sequence[str]) -> dict[str, str]:
    """`report.html` and `report.md`. methods: all of the report, so that each has one colour
    throughout."""
    package = files("ray_unlearn.analysis.report")
    css = package.joinpath("style.css").read_text(encoding="utf-8")
    loader = jinja2.PackageLoader("ray_unlearn.analysis.report")
    html = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html.filters["code"] = code
    html.filters["breakable"] = breakable
    html.globals["colour"] = lambda method: look(method, tuple(methods)).colour
    markdown = jinja2.Environment(
        loader=loader, autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_markdown, keep_trailing_newline=True,
    )  # fmt: skip
    markdown.globals["table"] = _markdown_table
    text = markdown.get_template("report.md.jinja").render(context)
    return {
        "report.html": html.get_template("report.html.jinja").render(context, css=Markup(css)),
        "report.md": re.sub(r"\n{3,}", "\n\n", text),
    }


def code(text: str) -> Markup:
    """Escaped text with `names` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(text: str) -> Markup:
    """Escaped text that may be broken after underscores."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _markdown(value: Any) -> Any:
    """Every value put into the Markdown page: no HTML, no broken table, no accidental markup
    outside backticks."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    flat = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if flat in COLUMNS:
        return flat
    parts = re.split("`+", flat)  # runs of backticks would pair otherwise than one by one
    if len(parts) % 2 == 0:  # the last one closes nothing: without it, what follows is text
        last = parts.pop()
        parts[-1] += last
    return "`".join(
        part.replace("|", "\\|") if i % 2 else _plain(part) for i, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    """No character of it means anything to Markdown."""
    return re.sub(r"([\\*_\[\]|])", r"\\\1", text)


def _markdown_table(table: Shown) -> Markup:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [
        _markdown(f"{head.label} ({head.hint})" if head.hint else head.label)
        for head in table.headings
    ]
    rule = ["---:" if head.numeric else "---" for head in table.headings]
    lines = [line([_markdown(cell) for cell in cells]) for cells in table.lines]
    return Markup("\n".join([f"*{_markdown(table.caption)}*", "", line(heads), line(rule), *lines]))
