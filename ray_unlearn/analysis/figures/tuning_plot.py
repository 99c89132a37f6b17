"""How fast do random trials come close to the best, and how many of them are close?"""

import pandas as pd
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.forest import ROW, name_rows
from ray_unlearn.analysis.figures.look import look, styled
from ray_unlearn.analysis.figures.panels import WIDTH, short


def tuning(data: pd.DataFrame, methods: tuple[str, ...], tolerance: float) -> Figure:
    """Tuning curves at the left, shares of good configurations at the right. data:
    `guideline_data.tuning`."""
    with styled():
        shares = data[data["kind"] == "share"].reset_index(drop=True)
        curves = data[data["kind"] == "curve"]
        figure = Figure(figsize=(WIDTH, max(3.4, ROW * len(shares) + 1.2)), layout="constrained")
        ratios = [1.35, 1.0] if len(curves) and len(shares) else [1.0]
        panels = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
        if len(curves):
            panel = panels[0]
            panel.set_xscale("log")
            for method in methods:
                part = curves[curves["method"] == method]
                style = look(method, methods)
                panel.fill_between(
                    part["k"], part["low"], part["high"], color=style.colour, alpha=0.12, lw=0
                )
                panel.plot(
                    part["k"], part["value"], color=style.colour, ls=style.dash, marker=style.marker, ms=3.5,
                    markevery=max(1, len(part) // 6), label=method,
                ) if len(part) else None  # fmt: skip
            panel.axhline(tolerance, color="black", lw=0.8, ls=(0, (4, 2)))
            ks = sorted(set(curves["k"]))
            ticks = [
                k for k in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if ks[0] <= k <= ks[-1]
            ]
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.set_xticks([], minor=True)
            panel.set_xlim(ks[0], ks[-1])
            panel.set_ylim(bottom=min(0.0, float(curves["low"].min())))
            panel.yaxis.set_major_formatter(lambda value, _: short(round(value, 6)))
            panel.set_xlabel("random trials of the method")
            panel.set_ylabel("expected best score:\nlost to the best known of any method")
            panel.set_title("Expected best after k random trials, 90 % bands")
            if not len(shares):
                panel.legend()
        if len(shares):
            panel = panels[-1]
            for i, line in shares.iterrows():
                style = look(line["method"], methods)
                panel.plot([line["low"], line["high"]], [i, i], color=style.colour, lw=1.8)
                panel.scatter(
                    line["value"],
                    i,
                    s=38,
                    color=style.colour,
                    marker=style.marker,
                    zorder=4,
                    clip_on=False,
                )
            name_rows(
                panel,
                list(shares["method"]),
                [look(method, methods).colour for method in shares["method"]],
            )
            panel.yaxis.tick_right()
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            panel.set_xlabel("of all configurations tried")
            panel.set_title("Within the tolerance of the method's own best, 95 % intervals")
        return figure
