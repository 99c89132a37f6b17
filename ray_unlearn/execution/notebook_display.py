"""A study's progress in a notebook: one output below the cell, replaced as the study goes on.

rich's own live display needs ipywidgets, and warns at each refresh if they are missing.
"""

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType

from ray_unlearn.environment import REAL

WIDTH = 100
EVERY_S = 0.5
"""Seconds between two updates: rows may come 100 times a second, and each is a message."""
PAGE = '<pre style="line-height:normal;font-family:monospace">{code}</pre>'


class NotebookDisplay:
    """A display of what `render` returns; see the module.

    Args:
        render: returns the present state, for rich.
        picture: returns an SVG of it that goes below the text; empty: none.
        clock: returns seconds.
    """

    def __init__(
        self,
        render: Callable[[], RenderableType],
        picture: Callable[[], str] = str,
        clock: Callable[[], float] = REAL.monotonic,
    ) -> None:
        self._render = render
        self._picture = picture
        self._clock = clock
        self._handle: Any = None
        self._shown = 0.0

    def start(self) -> None:
        """Put the output below the cell that runs."""
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)
        self._shown = self._clock()

    def update(self) -> None:
        """Show the present state, unless it was shown a moment ago."""
        if self._clock() - self._shown >= EVERY_S:
            self._show()

    def stop(self) -> None:
        """Show the last state, which stays."""
        self._show()

    def _show(self) -> None:
        self._handle.update(self._bundle(), raw=True)
        self._shown = self._clock()

    def _bundle(self) -> dict[str, str]:
        """The output as HTML for browsers and as text for programs that read notebooks."""
        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False, force_terminal=True
        )
        console.print(self._render())
        html = console.export_html(inline_styles=True, code_format=PAGE, clear=False)
        return {"text/html": html + self._picture(), "text/plain": console.export_text()}
