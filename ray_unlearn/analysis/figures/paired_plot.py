"""Two methods, group by group: paired differences with the pooled one below."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_unlearn.analysis.figures.forest import ROW, name_rows
from ray_unlearn.analysis.figures.look import INK, look, styled
from ray_unlearn.analysis.figures.panels import WIDTH
from ray_unlearn.analysis.guidelines.sentences import STATISTICS

POOLED = {
    "over_trials": "all, other trials of these groups",
    "over_groups": "all, other groups like these",
}


def paired(data: pd.DataFrame, methods: tuple[str, ...], method_a: str, method_b: str) -> Figure:
    """One panel per statistic. data: `guideline_data.paired`; every panel is turned so that right
    favours method a."""
    with styled():
        statistics = list(dict.fromkeys(data["statistic"]))
        # A panel's rows: groups, then what is pooled; the same in all panels.
        names = list(dict.fromkeys(data["row"]))
        figure = Figure(figsize=(WIDTH, ROW * len(names) + 1.35), layout="constrained")
        panels = figure.subplots(1, len(statistics), sharey=True, squeeze=False)[0]
        for panel, statistic in zip(panels, statistics, strict=True):
            part = data[data["statistic"] == statistic]
            panel.axvline(0, color=INK, lw=1.0)
            for line in part.to_dict("records"):
                place = names.index(line["row"])
                favours = (
                    line["difference"] > 0 if line["larger_is_better"] else line["difference"] < 0
                )
                style = look(method_a if favours else method_b, methods)
                if line["kind"] == "group":
                    panel.scatter(
                        line["difference"],
                        place,
                        s=30,
                        color=style.colour,
                        marker=style.marker,
                        zorder=4,
                    )
                else:
                    panel.plot(
                        [line["low"], line["high"]],
                        [place, place],
                        color=INK,
                        lw=2,
                        zorder=3,
                        marker="|",
                        ms=6,
                    )
                    panel.scatter(line["difference"], place, s=55, color=INK, marker="D", zorder=4)
            panel.set_title(STATISTICS[statistic].capitalize())
            panel.xaxis.set_major_locator(MaxNLocator(5))
            reach = float(part[["difference", "low", "high"]].abs().max().max()) * 1.15 or 1.0
            panel.set_xlim((-reach, reach) if part["larger_is_better"].iloc[0] else (reach, -reach))
            panel.set_xlabel("difference")
            panel.tick_params(axis="y", length=0)
        name_rows(panels[0], [POOLED.get(name, name) for name in names])
        keys = [
            Line2D(
                [],
                [],
                ls="",
                marker=look(m, methods).marker,
                color=look(m, methods).colour,
                ms=5.5,
                label=text,
            )
            for m, text in (
                (method_b, f"\u2190 {method_b} is better"),
                (method_a, f"{method_a} is better \u2192"),
            )
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=2)
        return figure
