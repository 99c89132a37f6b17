"""The command `log`."""

from enum import StrEnum
from typing import Annotated

import typer

from ray_unlearn.cli.options import Location
from ray_unlearn.cli.show import say


class TrackerName(StrEnum):
    """Where a study can be sent."""

    wandb = "wandb"
    mlflow = "mlflow"


def log_command(
    location: Location,
    to: Annotated[
        list[TrackerName],
        typer.Option("--to", help="wandb or mlflow; may be repeated", show_default=False),
    ],
    every: Annotated[
        float,
        typer.Option(min=0.1, max=86_400, help="seconds between two looks at a running study"),
    ] = 5.0,
    once: Annotated[
        bool, typer.Option("--once", help="send what there is and end, also while the study runs")
    ] = False,
    beside: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Send a study to W&B or MLflow: one run per trial, while it runs or long after.

    It reads the storage alone, so it runs on any machine. What was sent before is not sent again.
    Where it goes is the tracker's own to say: MLFLOW_TRACKING_URI, WANDB_PROJECT and so on. A study
    does this by itself with `operations: {loggers: [wandb, mlflow]}`."""
    import os

    from ray_unlearn.execution.exports.trackers import send_to_trackers

    if beside:
        os.nice(10)  # the lanes come first
    names = list(dict.fromkeys(one.value for one in to))
    send_to_trackers(location, names, say, every, once=once, beside=beside)
