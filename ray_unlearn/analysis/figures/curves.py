"""Score against learning rate, attack AUC along the best trials, and the course of the search."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_unlearn.analysis.figures.figure_data import ATTACKS, SCORE
from ray_unlearn.analysis.figures.look import (
    CHOSEN,
    INK,
    MOST_DOTS,
    MUTED,
    RASTER_ABOVE,
    look,
    styled,
    thinned,
)
from ray_unlearn.analysis.figures.panels import (
    COLUMNS_OF_PANELS,
    WIDTH,
    new_panels,
    plain_log_ticks,
    title,
)

CHOSEN_LABEL = "the method's chosen configuration"
FLOOR = 1e-4
"""Scores below are drawn here: a log axis has no zero."""


def learning_rates(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """Best score of each trial against its learning rate; trials without a score as crosses
    above."""
    with styled():
        shown = [method for method in methods if method in set(data["method"])]
        figure, panels = new_panels(len(shown), height=2.1)
        scores = data[SCORE][np.isfinite(data[SCORE])].clip(lower=FLOOR)
        limits = float(scores.min()) / 1.3, float(scores.max()) * 1.3
        rates = float(data["learning_rate"].min()) / 1.1, float(data["learning_rate"].max()) * 1.1
        for position, (panel, method) in enumerate(zip(panels, shown, strict=True)):
            part = data[data["method"] == method]
            style = look(method, methods)
            scored = part[part[SCORE].notna()]
            scored = scored[thinned(len(scored), MOST_DOTS) | scored["chosen"].to_numpy(dtype=bool)]
            panel.set_xscale("log")
            panel.set_yscale("log")
            drawn = panel.scatter(
                scored["learning_rate"], scored[SCORE].clip(lower=FLOOR), s=20, color=style.colour, marker=style.marker,
                alpha=0.8, linewidths=0, zorder=3, rasterized=len(data) > RASTER_ABOVE,
            )  # fmt: skip
            drawn.set_gid(f"trials-{position}")
            best = scored[scored["chosen"]]
            panel.scatter(
                best["learning_rate"],
                best[SCORE].clip(lower=FLOOR),
                s=110,
                facecolors="none",
                edgecolors=CHOSEN,
                lw=1.5,
            )
            lost = part[part[SCORE].isna()]
            crosses = panel.scatter(
                lost["learning_rate"], np.full(len(lost), 0.97), transform=panel.get_xaxis_transform(), marker="x", s=20,
                color=INK, linewidths=0.9, clip_on=False, rasterized=len(data) > RASTER_ABOVE,
            )  # fmt: skip
            crosses.set_gid(f"without-score-{position}")
            panel.set_xlim(rates)
            panel.set_ylim(limits[0], limits[1] * 1.25)
            plain_log_ticks(panel, "x", rates)
            plain_log_ticks(panel, "y", limits)
            title(panel, method, methods)
            if position % COLUMNS_OF_PANELS == 0:
                panel.set_ylabel("score [nats/token]")
            if position >= len(shown) - COLUMNS_OF_PANELS:
                panel.set_xlabel("learning rate")
        keys = [
            Line2D(
                [], [], ls="", marker="o", mfc="none", mec=CHOSEN, mew=1.5, ms=9, label=CHOSEN_LABEL
            ),
            Line2D(
                [],
                [],
                ls="",
                marker="x",
                color=INK,
                ms=5,
                label="trial without a score (diverged, failed, not finished)",
            ),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=2)
        return figure


def membership(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """Signed attack AUC along each method's best trial, with 0.5 and the baselines."""
    titles = {ATTACKS[0]: "Loss attack", ATTACKS[1]: "Min-K%++ attack, k = 20"}
    with styled():
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        rows = data[data["kind"] == "row"]
        for panel, attack in zip(panels, ATTACKS, strict=True):
            panel.axhline(0.5, color=INK, lw=1.1, zorder=2)
            for name, dash, text in (
                ("vanilla", (0, (4, 2)), "vanilla"),
                ("exact_retrain", (0, (1, 1.5)), "exactly retrained"),
            ):
                for value in data.loc[data["kind"] == name, attack].dropna():
                    panel.axhline(value, color=MUTED, lw=1.1, ls=dash, zorder=2, label=text)
            for method in methods:
                trial = rows[(rows["method"] == method) & rows[attack].notna()]
                style = look(method, methods)
                panel.plot(
                    trial["update"], trial[attack], color=style.colour, ls=style.dash, marker=style.marker, ms=4, label=method,
                ) if len(trial) else None  # fmt: skip
                best = trial[trial["chosen"]]
                panel.scatter(
                    best["update"],
                    best[attack],
                    s=110,
                    facecolors="none",
                    edgecolors=CHOSEN,
                    lw=1.5,
                    zorder=5,
                )
            panel.set_title(titles[attack])
            panel.set_xlabel("updates")
            panel.set_ylim(min(0.0, float(np.nanmin([*rows[attack], 0.0]))), 1.02)
            panel.set_xlim(left=0)
        panels[0].set_ylabel(
            "AUC, reporting half (target 0.5)\n\u2190 over-unlearned     still remembered \u2192"
        )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        return figure


def search_history(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """Best score so far after each trial of a method, on the half that the search saw."""
    with styled():
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        panel = figure.subplots()
        panel.set_yscale("log")
        for position, method in enumerate(methods):
            part = data[data["method"] == method]
            if part["best_so_far"].notna().any():
                style = look(method, methods)
                panel.step(
                    part["order"],
                    part["best_so_far"].clip(lower=FLOOR),
                    where="post",
                    color=style.colour,
                    ls=style.dash,
                    label=method,
                )
                dots = part[thinned(len(part), max(1, MOST_DOTS // len(methods)))]
                drawn = panel.scatter(
                    dots["order"], dots["score_selection"].clip(lower=FLOOR), s=14, color=style.colour, marker=style.marker,
                    alpha=0.5, linewidths=0, rasterized=len(data) > RASTER_ABOVE, zorder=1.5,
                )  # fmt: skip
                drawn.set_gid(f"trials-{position}")
        panel.set_xlabel("trial of the method, in the order asked for")
        panel.set_ylabel("score, selection half [nats/token]\nlower is better")
        plain_log_ticks(panel, "y", panel.get_ylim())
        figure.legend(
            loc="outside right center",
            title="best so far (line), trials (points)",
            alignment="left",
        )
        return figure
