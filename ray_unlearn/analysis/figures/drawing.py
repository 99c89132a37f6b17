"""A figure of a report before it is drawn: its numbers, its words, and how to draw it.

Small multiples, one panel per method, all panels with the same axes; one colour, marker and dash
per method throughout (`look.method_look`). A figure draws its numbers and nothing else.

A drawing named `heatmap` is made by `figures/heatmap.py` and written as `figures/heatmap.svg`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.look import styled


@dataclass(frozen=True)
class Drawing:
    """A figure with the numbers it shows and the words that say how to read it."""

    name: str
    """Stem of its files: the name of the module that draws it, and what tells several apart."""
    title: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[], Figure]

    def figure(self) -> Figure:
        """Draw the figure, which takes about a second.

        Raises:
            Exception: whatever its numbers make matplotlib raise.
        """
        with styled():
            return self.draw()
