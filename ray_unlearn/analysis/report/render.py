"""The page as HTML and as Markdown, from one `Page`."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ray_unlearn.analysis.figures.look import colour_sheet, method_look, page_colour
from ray_unlearn.analysis.report.page import Block, Page, Table
from ray_unlearn.spec.printable import printable
from ray_unlearn.store.schema import COLUMNS

PACKAGE = "ray_unlearn.analysis.report"
SETTINGS: dict[str, Any] = {
    "loader": jinja2.PackageLoader(PACKAGE),
    "undefined": jinja2.StrictUndefined,
    "trim_blocks": True,
    "lstrip_blocks": True,
    "keep_trailing_newline": True,
}


def render(page: Page, methods: Sequence[str]) -> dict[str, str]:
    """The texts of `report.html` and `report.md`, by file name.

    Args:
        page: what to say.
        methods: all methods of the report, so that each has one colour throughout.
    """
    text = _markdown_templates().get_template("report.md.jinja").render(page=page)
    return {
        "report.html": html_templates(methods).get_template("report.html.jinja").render(page=page),
        "report.md": re.sub(r"\n{3,}", "\n\n", text),
    }


def html_templates(methods: Sequence[str]) -> jinja2.Environment:
    """The templates of HTML pages: they escape what they show, and know style and colours."""
    html = jinja2.Environment(**SETTINGS, autoescape=True, finalize=_shown)
    html.filters |= {"code": code, "breakable": breakable}
    css = files(PACKAGE).joinpath("style.css").read_text(encoding="utf-8")
    html.globals["css"] = Markup(colour_sheet() + css)
    html.globals["kind"] = _kind
    html.globals["colour"] = lambda method: page_colour(method_look(method, tuple(methods)).colour)
    return html


def _markdown_templates() -> jinja2.Environment:
    markdown = jinja2.Environment(**SETTINGS, autoescape=False, finalize=_markdown)
    markdown.globals |= {"kind": _kind, "table": _markdown_table}
    return markdown


def _kind(block: Block) -> str:
    return type(block).__name__


def code(text: str) -> Markup:
    """Escaped text with `names` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(printable(text)))))


def breakable(text: str) -> Markup:
    """Escaped text that may be broken after underscores."""
    return Markup(str(escape(printable(text))).replace("_", "_<wbr>"))


def _shown(value: Any) -> Any:
    """Every value put into the HTML page: its text is escaped afterwards."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _markdown(value: Any) -> Any:
    """Every value put into the Markdown page.

    No HTML, no broken table, no accidental markup outside backticks.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    flat = (
        " ".join(printable(value).split())
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    if flat in COLUMNS:
        return flat
    parts = re.split("`+", flat)  # runs of backticks would pair otherwise than one by one
    if len(parts) % 2 == 0:  # the last one closes nothing: without it, what follows is text
        last = parts.pop()
        parts[-1] += last
    return "`".join(
        part.replace("|", "\\|") if i % 2 else _escaped(part) for i, part in enumerate(parts)
    )


def _escaped(text: str) -> str:
    """No character of it means anything to Markdown."""
    return re.sub(r"([\\*_\[\]|])", r"\\\1", text)


def _markdown_table(table: Table) -> Markup:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    heads = [
        _markdown(f"{head.label} ({head.hint})" if head.hint else head.label)
        for head in table.headings
    ]
    rule = ["---:" if head.numeric else "---" for head in table.headings]
    lines = [line([_markdown(cell) for cell in cells]) for cells in table.lines]
    return Markup("\n".join([f"*{_markdown(table.caption)}*", "", line(heads), line(rule), *lines]))
