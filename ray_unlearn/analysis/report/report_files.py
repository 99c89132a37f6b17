"""Files of a report: figures as SVG and PNG, and every number as CSV. The same content gives the
same bytes."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from ray_unlearn.analysis.figures.catalogue import Drawing
from ray_unlearn.analysis.figures.look import as_png, as_svg, inline_svg
from ray_unlearn.analysis.figures.panels import WIDTH

WHOLE_COLUMNS = ("number", "update", "order", "seed", "k", "n", "trial")


@dataclass(frozen=True)
class Picture:
    """A drawing as the templates need it. `width`: share of the page's width in percent, so that
    text has one size."""

    anchor: str
    title: str
    caption: str
    svg: Markup
    file: str
    width: int


class Output:
    """The folder of a report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()
        for place in (folder, folder / "figures", folder / "data"):
            place.mkdir(parents=True, exist_ok=True)

    def unique(self, text: str) -> str:
        """A name for files and anchors: letters, digits, `.`, `_` and `-` of the text, no other
        like it."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "study"
        name, copy = stem, 1
        while name.lower() in self._taken:
            copy += 1
            name = f"{stem}-{copy}"
        self._taken.add(name.lower())
        return name

    def picture(self, drawing: Drawing, prefix: str = "") -> Picture:
        """Write a figure with its numbers."""
        name = self.unique(prefix + drawing.name)
        svg = as_svg(drawing.figure)
        drawing.figure.set_layout_engine(
            "none"
        )  # it is laid out now; once more would take as long as drawing
        self.text(f"figures/{name}.svg", svg)
        (self.folder / "figures" / f"{name}.png").write_bytes(as_png(drawing.figure))
        self.csv(drawing.data, name)
        # Our own SVG: names in it are drawn as outlines.
        inline = Markup(inline_svg(svg, name, str(escape(drawing.title))))
        width = round(100 * drawing.figure.get_figwidth() / WIDTH)
        return Picture(name, drawing.title, drawing.caption, inline, name, width)

    def csv(self, frame: pd.DataFrame, name: str) -> bytes:
        """Every digit, so that the file holds the very numbers that were drawn."""
        text = csv_text(frame)
        self.text(f"data/{name}.csv", text)
        return text.encode()

    def text(self, name: str, text: str) -> None:
        """A file in the folder."""
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as a CSV file holds it."""
    whole = {
        column: "Int64" for column in WHOLE_COLUMNS
        if column in frame and pd.to_numeric(frame[column], errors="coerce").notna().any()
    }  # fmt: skip
    return frame.astype(whole).to_csv(index=False, lineterminator="\n")
