"""Interactions by method: exponent kappa of learning rate's trade-off with steps or weight."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import CORE, INK, method_look
from ray_unlearn.analysis.figures.panels import ROW, WIDTH, Style, name_methods
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.statistics.interaction import EQUIVALENT, Interaction

CAPTION = (
    "The response is fitted as a function of log(learning rate) + kappa log(other). With steps, "
    "kappa = 1 says that learning rate times steps is all that counts, and the green band is how "
    "near an interval must be to say so (filled: it is, and the one-variable fit predicts as "
    "well). With a weight, kappa = 0 says that the best learning rate does not depend on it, below "
    "0 that it grows with it."
)
TITLES = {"update": "Learning rate against steps", "w_r": "Learning rate against the retain weight"}


def kappa_figure(findings: Findings) -> Drawing | None:
    """Interactions of all methods; None where nothing was computed."""
    data = kappa_data(findings)
    if data.empty:
        return None
    methods = findings.table.methods
    title = "Can one hyperparameter make up for another?"
    return Drawing("kappa_intervals", title, CAPTION, data, lambda: _draw(data, methods))


def kappa_data(findings: Findings) -> pd.DataFrame:
    """A line per method and second quantity."""
    both = (("update", "trade_off"), ("w_r", "weight_trade_off"))
    return pd.DataFrame(
        [
            _line(name, other, found)
            for other, field in both
            for name, method in findings.methods.items()
            if (found := getattr(method, field)) is not None
        ]
    )


def _line(method: str, other: str, found: Interaction) -> dict[str, object]:
    low, high = found.kappa_interval
    return {
        "other": other,
        "method": method,
        "kappa": found.kappa,
        "low": low,
        "high": high,
        "at_bound": found.interval_at_bound,
        "rmse_one": found.rmse_one,
        "rmse_two": found.rmse_two,
        "equivalent": found.equivalent,
        "n_trials": found.n_trials,
        "n_rows": found.n_rows,
    }


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    others = list(dict.fromkeys(data["other"]))
    counts = [int((data["other"] == other).sum()) for other in others]
    figure = Figure(figsize=(WIDTH, ROW * max(*counts, 2) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(others), squeeze=False)[0]
    for panel, other in zip(panels, others, strict=True):
        _draw_panel(panel, data[data["other"] == other].reset_index(drop=True), other, methods)
    return figure


def _draw_panel(panel: Axes, part: pd.DataFrame, other: str, methods: tuple[str, ...]) -> None:
    if other == "update":
        panel.axvspan(*EQUIVALENT, color=CORE, alpha=0.35, lw=0)
        panel.axvline(1, color=INK, lw=0.8, ls=(0, (4, 2)))
    panel.axvline(0, color=INK, lw=0.8)
    for i, line in enumerate(part.to_dict("records")):
        style = method_look(line["method"], methods)
        span: Style = {"color": style.colour, "lw": 1.8, "marker": "|", "ms": 6}
        panel.plot([line["low"], line["high"]], [i, i], **span)
        panel.scatter(
            line["kappa"], i, s=40, marker=style.marker, edgecolors=style.colour, linewidths=1.4,
            facecolors=style.colour if line["equivalent"] or other != "update" else "white",
            zorder=4,
        )  # fmt: skip
    name_methods(panel, list(part["method"]), methods)
    panel.set_title(TITLES.get(other, f"Learning rate against {other}"))
    panel.set_xlabel("kappa, with its 90 % interval")
