"""Do learning rate and a second quantity trade off? Their exponent kappa by method."""

import pandas as pd
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.forest import ROW, name_rows
from ray_unlearn.analysis.figures.look import CORE, INK, look, styled
from ray_unlearn.analysis.figures.panels import WIDTH

TITLES = {"update": "Learning rate against steps", "w_r": "Learning rate against the retain weight"}


def kappas(data: pd.DataFrame, methods: tuple[str, ...], equivalent: tuple[float, float]) -> Figure:
    """A panel per second quantity, a row per method. data: `guideline_data.kappas`."""
    with styled():
        others = list(dict.fromkeys(data["other"]))
        counts = [int((data["other"] == other).sum()) for other in others]
        figure = Figure(figsize=(WIDTH, ROW * max(*counts, 2) + 1.0), layout="constrained")
        for panel, other in zip(
            figure.subplots(1, len(others), squeeze=False)[0], others, strict=True
        ):
            part = data[data["other"] == other].reset_index(drop=True)
            if other == "update":
                panel.axvspan(*equivalent, color=CORE, alpha=0.35, lw=0)
                panel.axvline(1, color=INK, lw=0.8, ls=(0, (4, 2)))
            panel.axvline(0, color=INK, lw=0.8)
            for i, line in enumerate(part.to_dict("records")):
                style = look(line["method"], methods)
                panel.plot(
                    [line["low"], line["high"]],
                    [i, i],
                    color=style.colour,
                    lw=1.8,
                    marker="|",
                    ms=6,
                )
                full = style.colour if line["equivalent"] or other != "update" else "white"
                panel.scatter(
                    line["kappa"],
                    i,
                    s=40,
                    marker=style.marker,
                    facecolors=full,
                    edgecolors=style.colour,
                    linewidths=1.4,
                    zorder=4,
                )
            name_rows(
                panel,
                list(part["method"]),
                [look(method, methods).colour for method in part["method"]],
            )
            panel.set_title(TITLES.get(other, f"Learning rate against {other}"))
            panel.set_xlabel("kappa, with its 90 % interval")
        return figure
