"""Two methods, group by group: paired differences with the pooled one below."""

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import INK, method_look
from ray_unlearn.analysis.figures.panels import (
    LARGEST,
    drawable,
    marker_key,
    name_rows,
    rows_figure,
)
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.sentences import STATISTICS
from ray_unlearn.analysis.statistics.contests import RobustnessClaim

POOLED = {
    "over_trials": "all, other trials of these groups",
    "over_groups": "all, other groups like these",
}
TITLE_WIDTH = 34
"""Characters of a line of a title; a longer one would run into the next panel's."""
COLUMNS = [
    "statistic", "larger_is_better", "kind", "row", "a", "b", "n_a", "n_b", "difference", "low",
    "high", "p",
]  # fmt: skip


def paired_figure(findings: Findings) -> Drawing | None:
    """The headline comparison; None without it."""
    claim = findings.headline
    if claim is None:
        return None
    data, methods = paired_data(claim), findings.table.methods
    pair = claim.method_a, claim.method_b
    caption = (
        "One dot per group, coloured by the method that does better there; diamonds are means over "
        "groups with their 90 % intervals. Each axis is turned so that the right favours the first "
        "method. The first statistic allows for the method with more trials finding a better best "
        f"(both are given {claim.budget} trials); the last is the mean of the tuning curve up to "
        "there."
    )
    title = f"{claim.method_a} against {claim.method_b}"
    return Drawing("paired_groups", title, caption, data, lambda: _draw(data, methods, pair))


def paired_data(claim: RobustnessClaim) -> pd.DataFrame:
    """Per statistic of a comparison a line per group (`group`) and the pooled ones (`pooled`)."""
    lines: list[dict[str, Any]] = []
    for found in claim.differences:
        shared = {"statistic": found.statistic, "larger_is_better": found.larger_is_better}
        for g in found.groups:
            values = {"a": g.a, "b": g.b, "n_a": g.n_a, "n_b": g.n_b, "difference": g.difference}
            lines.append({**shared, "kind": "group", "row": g.group, **values})
        for name in POOLED:
            if (interval := getattr(found, name)) is not None:
                values = {"low": interval.low, "high": interval.high, "p": interval.p_value}
                pooled = {"kind": "pooled", "row": name, "difference": found.mean}
                lines.append({**shared, **pooled, **values})
    return pd.DataFrame(lines, columns=COLUMNS)


def _draw(data: pd.DataFrame, methods: tuple[str, ...], pair: tuple[str, str]) -> Figure:
    statistics = list(dict.fromkeys(data["statistic"]))
    # A panel's rows: groups, then what is pooled; the same in all panels.
    names = list(dict.fromkeys(data["row"]))
    figure, panels = rows_figure(len(names), len(statistics), extra=1.5)
    for panel, statistic in zip(panels, statistics, strict=True):
        part = data[data["statistic"] == statistic]
        panel.axvline(0, color=INK, lw=1.0)
        for line in part.to_dict("records"):
            _draw_line(panel, names.index(line["row"]), line, methods, pair)
        panel.set_title(textwrap.fill(STATISTICS[statistic].capitalize(), TITLE_WIDTH))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        reach = float(part[["difference", "low", "high"]].abs().max().max()) * 1.15 or 1.0
        reach = min(reach, LARGEST)
        panel.set_xlim((-reach, reach) if part["larger_is_better"].iloc[0] else (reach, -reach))
        panel.set_xlabel("difference")
        panel.tick_params(axis="y", length=0)
    name_rows(panels[0], [POOLED.get(name, name) for name in names])
    figure.legend(handles=_keys(methods, pair), loc="outside lower center", ncols=2)
    return figure


def _draw_line(
    panel: Axes, place: int, line: dict[Any, Any], methods: tuple[str, ...], pair: tuple[str, str]
) -> None:
    difference, low, high = (float(drawable(line[k])) for k in ("difference", "low", "high"))
    if line["kind"] != "group":
        panel.plot([low, high], [place, place], color=INK, lw=2, zorder=3, marker="|", ms=6)
        panel.scatter(difference, place, s=55, color=INK, marker="D", zorder=4)
        return
    favours_first = difference > 0 if line["larger_is_better"] else difference < 0
    style = method_look(pair[0] if favours_first else pair[1], methods)
    panel.scatter(difference, place, s=30, color=style.colour, marker=style.marker, zorder=4)


def _keys(methods: tuple[str, ...], pair: tuple[str, str]) -> list[object]:
    first, second = pair
    looks = [method_look(method, methods) for method in (second, first)]
    texts = (f"\u2190 {second} is better", f"{first} is better \u2192")
    return [
        marker_key(text, marker=style.marker, color=style.colour, ms=5.5)
        for text, style in zip(texts, looks, strict=True)
    ]
