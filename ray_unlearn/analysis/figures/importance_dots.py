"""What matters: evidence that the score depends on each hyperparameter, beside pure noise."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_unlearn.analysis.figures.drawing import Drawing
from ray_unlearn.analysis.figures.look import INK, MUTED, method_look
from ray_unlearn.analysis.figures.panels import Style, line_key, marker_key, name_rows, rows_figure
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.grades import THRESHOLDS
from ray_unlearn.analysis.guidelines.sentences import label
from ray_unlearn.analysis.statistics.axis_effect import PERMUTATIONS

CAPTION = (
    "How much better the score follows a hyperparameter's values than the same values shuffled "
    "among the trials, the other hyperparameters allowed for. The grey bar shows what shuffled "
    "values reach; only a dot beyond it, and beyond a correction for the number of methods, is "
    "evidence (filled). It tells whether a hyperparameter matters, not by how much."
)
NOISE: Style = {"color": MUTED, "alpha": 0.35, "lw": 7}


def importance_figure(findings: Findings) -> Drawing | None:
    """What matters, all methods; None where nothing was computed."""
    data = importance_data(findings)
    if data.empty:
        return None
    methods = findings.table.methods
    title = "What matters, and what noise would look like"
    return Drawing("importance_dots", title, CAPTION, data, lambda: _draw(data, methods))


def importance_data(findings: Findings) -> pd.DataFrame:
    """One line per method and hyperparameter.

    `matters` is tested at 5 % over all methods and hyperparameters together.
    """
    lines = [
        {
            "method": name,
            "param": param,
            "statistic": effect.statistic,
            "null_95": effect.null_95,
            "p": (p := findings.effect_p(found, param)),
            "matters": p <= THRESHOLDS.family_error,
            "n_trials": len(found.trials),
            "permutations": PERMUTATIONS,
        }
        for name, found in findings.methods.items()
        for param, effect in found.effects.items()
    ]
    return pd.DataFrame(lines)


def _draw(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    figure, (panel,) = rows_figure(len(data), 1)
    lines = data.to_dict("records")
    for i, line in enumerate(lines):
        _draw_line(panel, i, line, methods)
    names = [": ".join(filter(None, (line["method"], label(line["param"])))) for line in lines]
    name_rows(panel, names, [method_look(method, methods).colour for method in data["method"]])
    panel.set_title("Does the score depend on it?")
    panel.set_xlabel("evidence, in SDs of shuffled values")
    panel.set_xlim(left=min(0.0, data["statistic"].min()))
    noise = "up to here, pure noise gives as much (95 %, all of a method's together)"
    keys = [
        line_key(noise, **NOISE),
        marker_key("shown to matter", color=INK, ms=6),
        marker_key("not shown to matter", mfc="white", mec=INK, mew=1.3, ms=6),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _draw_line(panel: Axes, i: int, line: dict[Any, Any], methods: tuple[str, ...]) -> None:
    style = method_look(line["method"], methods)
    panel.plot([0, line["null_95"]], [i, i], solid_capstyle="butt", zorder=2, **NOISE)
    panel.scatter(
        line["statistic"], i, s=42, marker=style.marker, edgecolors=style.colour, linewidths=1.4,
        facecolors=style.colour if line["matters"] else "white", zorder=4, clip_on=False,
    )  # fmt: skip
