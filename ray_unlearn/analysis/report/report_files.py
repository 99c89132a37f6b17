"""The files of a report: figures as SVG and PNG, and every number as CSV.

The same content gives the same bytes.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import as_png, as_svg, inline_svg
from ray_unlearn.analysis.figures.panels import WIDTH
from ray_unlearn.analysis.report.page import Paragraph, Picture

WHOLE_COLUMNS = ("number", "update", "order", "seed", "k", "n", "trial")
MOST_OF_AN_ERROR = 200
"""Characters of an error on the page."""

Makers = Mapping[str, Callable[[], Drawing | None]]
"""What makes each figure, by what the figure is called where it cannot be made."""


class ReportFolder:
    """The folder of a report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()
        for place in (folder, folder / "figures", folder / "data"):
            place.mkdir(parents=True, exist_ok=True)

    def unique(self, text: str) -> str:
        """A name for files and anchors made of the text, with no other like it.

        Only letters, digits, `.`, `_` and `-` are left.
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "study"
        name, copy = stem, 1
        while name.lower() in self._taken:
            copy += 1
            name = f"{stem}-{copy}"
        self._taken.add(name.lower())
        return name

    def pictures(self, makers: Makers, prefix: str = "") -> tuple[Picture | Paragraph, ...]:
        """Draw and write figures with their numbers.

        A figure that cannot be made becomes a sentence with the reason: no number, however large,
        ends a report. Only what matplotlib and pandas do is covered, not the writing of files.

        Returns:
            One block per figure, without those that have nothing to show (their maker gave None).
        """
        found: list[Picture | Paragraph] = []
        for name, make in makers.items():
            try:
                drawing = make()
            except Exception as error:  # any library may object to strange numbers
                found.append(Paragraph(f"{name}: this figure cannot be made ({_shown(error)})."))
                continue
            if drawing is not None:
                found.append(self._picture(drawing, prefix))
        return tuple(found)

    def _picture(self, drawing: Drawing, prefix: str) -> Picture | Paragraph:
        name = self.unique(prefix + drawing.name)
        self.csv(drawing.data, name)
        try:
            svg, png, width = drawn(drawing)
        except Exception as error:  # whatever matplotlib objects to, the numbers are written
            return Paragraph(
                f"{drawing.title}: this figure cannot be drawn ({_shown(error)}). Its numbers are "
                f"in `data/{name}.csv`."
            )
        self.text(f"figures/{name}.svg", svg)
        (self.folder / "figures" / f"{name}.png").write_bytes(png)
        # An SVG of our own: names in it are drawn as outlines.
        inline = Markup(inline_svg(svg, name, str(escape(drawing.title))))
        return Picture(name, drawing.title, drawing.caption, inline, name, width)

    def csv(self, frame: pd.DataFrame, name: str) -> bytes:
        """Write `data/NAME.csv` with every digit, so that it holds the numbers that were drawn.

        Returns:
            Its content.
        """
        text = csv_text(frame)
        self.text(f"data/{name}.csv", text)
        return text.encode()

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        (self.folder / name).write_text(text, encoding="utf-8", newline="\n")


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as a CSV file holds it."""
    whole = {
        column: "Int64"
        for column in WHOLE_COLUMNS
        if column in frame and _are_whole(pd.to_numeric(frame[column], errors="coerce").dropna())
    }
    return frame.astype(whole).to_csv(index=False, lineterminator="\n")


def _are_whole(known: pd.Series) -> bool:
    """Whether there is a number, and none has a fraction, as steps of others may have."""
    return not known.empty and bool((known % 1 == 0).all())


def drawn(drawing: Drawing) -> tuple[str, bytes, int]:
    """The figure as SVG and as PNG, and its width as a percentage of the page's."""
    figure = drawing.figure()
    svg = as_svg(figure)
    # The SVG has been laid out; doing so again for the PNG would take as long as drawing.
    figure.set_layout_engine("none")
    return svg, as_png(figure), round(100 * figure.get_figwidth() / WIDTH)


def _shown(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text[:MOST_OF_AN_ERROR].replace("`", "'")
