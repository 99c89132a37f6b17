"""What matters: importance of each hyperparameter beside what pure noise would give."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_unlearn.analysis.figures.forest import name_rows, rows_figure
from ray_unlearn.analysis.figures.look import INK, MUTED, look, styled
from ray_unlearn.analysis.guidelines.sentences import label


def importances(data: pd.DataFrame, methods: tuple[str, ...]) -> Figure:
    """A row per method and hyperparameter; filled where it is shown to matter. data:
    `guideline_data.importances`."""
    with styled():
        figure, (ped,) = rows_figure(len(data), 1)
        for i, line in enumerate(data.to_dict("records")):
            colour = look(line["method"], methods).colour
            marker = look(line["method"], methods).marker
            ped.plot(
                [0, line["ped_null_95"]],
                [i, i],
                color=MUTED,
                alpha=0.35,
                lw=7,
                solid_capstyle="butt",
                zorder=2,
            )
            ped.scatter(
                line["ped"], i, s=42, marker=marker, facecolors=colour if line["matters"] else "white", edgecolors=colour,
                linewidths=1.4, zorder=4, clip_on=False,
            )  # fmt: skip
        name_rows(
            ped,
            [
                f"{line['method']}: {label(line['param'])}"
                if line["method"]
                else label(line["param"])
                for line in data.to_dict("records")
            ],
            [look(method, methods).colour for method in data["method"]],
        )
        ped.set_title("Among the best trials (PED-ANOVA)")
        ped.set_xlabel("importance, not normalised")
        ped.set_xlim(left=0)
        keys = [
            Line2D(
                [],
                [],
                color=MUTED,
                alpha=0.35,
                lw=7,
                label="up to here, pure noise gives as much (95 %, all of a method's together)",
            ),
            Line2D([], [], ls="", marker="o", color=INK, ms=6, label="shown to matter"),
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                mfc="white",
                mec=INK,
                mew=1.3,
                ms=6,
                label="not shown to matter",
            ),
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return figure
