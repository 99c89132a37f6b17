"""The command `watch`."""

from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.study_commands import watch_study

EVERY_S = 5.0


def watch_command(
    location: Location,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="write a page for a browser here, which renews itself; default: show it in the "
            "terminal, as `status --watch`",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=1, max=86_400, help="seconds between two looks")
    ] = EVERY_S,
) -> None:
    """Watch a study until its run has ended: in the terminal, or as a page for a browser.

    It reads the storage alone, so it runs on any machine. The page is one file that needs nothing
    else; Ctrl-C leaves, the study goes on."""
    if html is None:
        watch_study(location, every, json=False)
        return
    _write_pages(location, html, every)


def _write_pages(location: str, path: Path, every_s: float) -> None:
    from ray_unlearn.analysis.report.live_page import keep_page
    from ray_unlearn.cli.show import say
    from ray_unlearn.store.status import followed

    def ready() -> None:
        say(f"the page is {path}; open it in a browser")

    with followed(location) as follower:
        try:
            keep_page(follower, path, every_s, ready)
        except KeyboardInterrupt:
            say(f"left; {path} stays as it is")
