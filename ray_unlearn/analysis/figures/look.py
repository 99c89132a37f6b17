"""One look for all figures: colour, marker and dash of each method, and how a figure is written."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ray_unlearn.spec.method_registry import METHODS

INK = "#22262b"
MUTED = "#70767e"
FAINT = "#d9d9d4"
ABSENT = "#e9e7e1"
CHOSEN = "#d1122e"
CORE = "#8fcf9f"
EXCLUDED = "#e3b7ac"
"""Ground of good and of excluded values; both stay apart in grey, the excluded one being darker."""
RASTER_ABOVE = 1000
"""Points of a figure above which they are images inside the SVG, so that the page stays small."""
MOST_DOTS = 1500
"""Dots drawn per panel; more hide each other and weigh down the page. All of them stay in the
numbers."""


@dataclass(frozen=True)
class MethodLook:
    """How a method is drawn: colour, marker and dash, so that no reader needs colours."""

    colour: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]]


# Okabe and Ito's colour-blind-safe palette, without the yellow, which is too pale for thin lines on
# a light ground.
_COLOURS = ("#4d4d4d", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#009e73", "#d55e00")
IN_THE_DARK = {
    "#000000": "#e3e3de",
    "#ffffff": "#1b1f23",
    INK: "#e3e3de",
    MUTED: "#9aa1a8",
    FAINT: "#343a40",
    ABSENT: "#2a2f34",
    CHOSEN: "#ff5a6e",
    CORE: "#3f9a59",
    EXCLUDED: "#a35a4a",
    "#4d4d4d": "#b9bdc1",
    "#cc79a7": "#dd8fbb",
    "#0072b2": "#3f9be0",
    "#009e73": "#25bd90",
    "#d55e00": "#f07a2b",
}
"""Colours of figures and of methods that a page with a dark ground shows otherwise."""
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
)
_RC: dict[str, Any] = {
    "svg.hashsalt": "ray_unlearn",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": INK,
    "text.color": INK,
    "hatch.linewidth": 0.5,
    "hatch.color": MUTED,
    "lines.linewidth": 1.2,
}


def page_colour(colour: str) -> str:
    """The colour on a page: a CSS variable of `colour_sheet` where the dark one is another."""
    return f"var(--c{colour[1:]})" if colour in IN_THE_DARK else colour


def colour_sheet() -> str:
    """The CSS variables of `page_colour`, light and dark; print is light."""
    light = "".join(f"--c{colour[1:]}:{colour};" for colour in IN_THE_DARK)
    dark = "".join(f"--c{colour[1:]}:{other};" for colour, other in IN_THE_DARK.items())
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def method_look(method: str, methods: tuple[str, ...]) -> MethodLook:
    """The look of a method: fixed for the seven, by position among the rest for any other."""
    names = (*METHODS, *(name for name in methods if name not in METHODS))
    place = names.index(method)
    return MethodLook(
        _COLOURS[place % len(_COLOURS)],
        _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)],
        _DASHES[place % len(_DASHES)],
    )


def thinned(n: int, most: int) -> NDArray[np.bool_]:
    """Which of n things to draw when only `most` may be: chosen at random from a fixed seed."""
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(0).permutation(n)[:most]] = True
    return chosen


@contextmanager
def styled() -> Iterator[None]:
    """Settings of this package, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def as_svg(figure: Figure) -> str:
    """The figure as an SVG document without date and random ids: always the same bytes."""
    buffer = io.StringIO()
    with styled():
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", facecolor="none", dpi=110, metadata=metadata)
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG on white, for slides and Markdown."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(
            buffer, format="png", facecolor="white", dpi=160, metadata={"Software": None}
        )
    return buffer.getvalue()


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """The `<svg>` element for an HTML page, its size and colours left to the style sheet.

    Args:
        svg: what `as_svg` gives.
        prefix: makes the ids unique on the page.
        label: what a screen reader says, escaped already.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    # A hundredth of a point is less than a pixel; six decimals make up a third of the page.
    body = re.sub(
        r'\b(?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), body
    )
    body = re.sub(r'\bfill="(#[0-9a-f]{6})"', r'style="fill: \1"', body)  # grounds of hatches
    body = re.sub(
        r'style="[^"]*"',
        lambda found: re.sub(r"#[0-9a-f]{6}\b", lambda hue: page_colour(hue[0]), found[0]),
        body,
    )
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", body)
    body = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
