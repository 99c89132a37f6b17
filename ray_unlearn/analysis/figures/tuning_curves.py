"""Tuning curves: how fast random trials come close to the best, and how many of them are close."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import method_look
from ray_unlearn.analysis.figures.panels import (
    ROW,
    WIDTH,
    Style,
    drawable,
    name_methods,
    tick_label,
)
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings

CURVES = (
    "What was measured: the expected best of k random trials of these, relative to the best "
    "measured of any method in the same group (mean over all subsets of k trials; no curve goes "
    "beyond half of the trials). Measured scores carry noise, so the best of many looks better "
    "than it is, and few look close to it. A line that starts low and is flat needs no tuning; "
    "the dashed line is the tolerance. Only trials drawn from the space count."
)
SHARES = (
    "By the response surface, without noise: how large a share of the space searched is within "
    "the tolerance of the method's own best; the larger, the more forgiving."
)
COLUMNS = ["kind", "method", "k", "value", "low", "high", "n"]
BUDGET_TICKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def tuning_figure(findings: Findings) -> Drawing | None:
    """Robustness of all methods; None where nothing was computed."""
    data = tuning_data(findings)
    if data.empty:
        return None
    methods, tolerance = findings.table.methods, findings.table.score.tolerance
    kinds = set(data["kind"])
    both = kinds == {"curve", "share"}
    parts = [f"{'Left: ' if both else ''}{CURVES}"] if "curve" in kinds else []
    parts += [f"{'Right: ' if both else ''}{SHARES}"] if "share" in kinds else []
    caption = " ".join(parts)
    title = "How much tuning does a method need?"
    return Drawing("tuning_curves", title, caption, data, lambda: _draw(data, methods, tolerance))


def tuning_data(findings: Findings) -> pd.DataFrame:
    """`curve` lines (k, expected best regret, band) and `share` lines (good share of the space)."""
    lines = [line for name, found in findings.methods.items() for line in _lines_of(name, found)]
    return pd.DataFrame(lines, columns=COLUMNS)


def _lines_of(name: str, found: MethodFindings) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    if (curve := found.curve) is not None:
        points = zip(curve.ks, curve.expected_best, curve.low, curve.high, strict=True)
        lines += [("curve", name, *point, curve.n) for point in points]
    if (good := found.good_share) is not None:
        count = found.surface_evidence.n_trials
        lines.append(("share", name, None, good.share, good.low, good.high, count))
    return lines


def _draw(data: pd.DataFrame, methods: tuple[str, ...], tolerance: float) -> Figure:
    shares = data[data["kind"] == "share"].reset_index(drop=True)
    curves = data[data["kind"] == "curve"]
    figure = Figure(figsize=(WIDTH, max(3.4, ROW * len(shares) + 1.2)), layout="constrained")
    ratios = [1.35, 1.0] if len(curves) and len(shares) else [1.0]
    panels = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0])
    if len(curves):
        _curves(panels[0], curves, methods, tolerance)
    if len(shares):
        _shares(panels[-1], shares, methods)
    else:
        panels[0].legend()
    return figure


def _curves(panel: Axes, curves: pd.DataFrame, methods: tuple[str, ...], tolerance: float) -> None:
    panel.set_xscale("log")
    for method in methods:
        part = curves[curves["method"] == method]
        if part.empty:
            continue
        style = method_look(method, methods)
        low, high, value = (drawable(part[name]) for name in ("low", "high", "value"))
        panel.fill_between(part["k"], low, high, color=style.colour, alpha=0.12, lw=0)
        panel.plot(
            part["k"], value, color=style.colour, ls=style.dash, marker=style.marker, ms=3.5,
            markevery=max(1, len(part) // 6), label=method,
        )  # fmt: skip
    panel.axhline(tolerance, color="black", lw=0.8, ls=(0, (4, 2)))
    ks = sorted(set(curves["k"]))
    ticks = [k for k in BUDGET_TICKS if ks[0] <= k <= ks[-1]]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_xlim(ks[0], ks[-1])
    panel.set_ylim(bottom=min(0.0, float(drawable(curves["low"]).min())))
    panel.yaxis.set_major_formatter(lambda value, _: tick_label(round(value, 6)))
    panel.set_xlabel("random trials of the method")
    panel.set_ylabel("expected best measured score:\nlost to the best measured of any method")
    panel.set_title("Measured: expected best of k random trials, 90 % bands")


def _shares(panel: Axes, shares: pd.DataFrame, methods: tuple[str, ...]) -> None:
    for i, line in enumerate(shares.to_dict("records")):
        style = method_look(line["method"], methods)
        panel.plot([line["low"], line["high"]], [i, i], color=style.colour, lw=1.8)
        dot: Style = {"color": style.colour, "marker": style.marker, "clip_on": False}
        panel.scatter(line["value"], i, s=38, zorder=4, **dot)
    name_methods(panel, list(shares["method"]), methods)
    panel.yaxis.tick_right()
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    panel.set_xlabel("of the space searched")
    panel.set_title("Within the tolerance of the method's best, 95 % intervals")
