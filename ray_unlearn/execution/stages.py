"""Progress of long preparations, such as training the demo models.

It is a bar on a terminal, and a line now and then elsewhere.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[str, float], None]
LINE_EVERY = 0.2


@contextmanager
def stages(quiet: bool = False) -> Iterator[Report]:
    """A function to call with (stage, fraction from 0 to 1).

    It shows nothing for work that is done at once.
    """
    if quiet:
        yield lambda stage, fraction: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            tasks: dict[str, int] = {}

            def show(stage: str, fraction: float) -> None:
                if fraction < 1 or stage in tasks:
                    task = tasks.setdefault(stage, -1)
                    if task < 0:
                        task = tasks[stage] = bar.add_task(stage, total=1.0)
                    bar.update(task, completed=fraction)  # type: ignore[arg-type]

            yield show
    else:
        told: dict[str, float] = {}

        def say(stage: str, fraction: float) -> None:
            if fraction < 1 and fraction >= told.get(stage, -LINE_EVERY) + LINE_EVERY:
                told[stage] = fraction
                print(f"{stage}: {fraction:.0%}", file=sys.stderr, flush=True)

        yield say
