"""Where a method's scores differ: by domain, trained model, unlearning seed or configuration."""

import pandas as pd

from ray_unlearn.analysis.numerals import DASH, percentage, plain
from ray_unlearn.analysis.report.page import Heading, Paragraph, Section, Table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.statistics.variance_split import (
    FEWEST_TRIALS,
    VarianceComponent,
    VarianceSplit,
    variance_split,
)
from ray_unlearn.analysis.trials import TrialTable

TITLE = "What the score's variance comes from"
SOURCES = {
    "domain": ("domain", "between domains; with one trained model each, that of the models too"),
    "model": ("trained model", "between trained models of one domain"),
    "seed": ("unlearning seed", "between seeds of one configuration in one group"),
    "configuration": ("configuration", "what a configuration does in all groups alike"),
    "left": ("what is left", "what a configuration does in one group only; with an unknown source"),
}
READING = (
    "Standard deviation of the score by its source (random effects, Henderson's method I), with "
    "its 90 % interval and its share of the variance. Trials that an adaptive sampler chose are "
    "left out; scores worse than doing nothing count as doing nothing. \u201cNot known\u201d: one "
    "value only, or never apart from another source. A seed is known where a configuration was run "
    "with several, a configuration where several groups or seeds ran it. Intervals assume normal "
    "effects: heavy tails make those of the last three too short. Where trained models "
    "differ by more than the tolerance, try a claim on your own before you rely on it."
)
NOTHING = (
    "The variance of the score is not split: that takes several domains, several trained models of "
    f"a domain, or configurations that were run more than once, and {FEWEST_TRIALS} trials."
)


def variance_section(table: TrialTable, out: ReportFolder, seed: int) -> Section:
    """The split of each method's scores, and `data/variance_split.csv`."""
    known = table.trials[table.trials["drawn"] != "adaptive"]
    found = {
        method: variance_split(
            known[known["method"] == method],
            tuple(axis.name for axis in table.axes[method]),
            table.nothing,
            seed,
        )
        for method in table.methods
    }
    splits = {method: split for method, split in found.items() if split is not None}
    if not splits:
        return Section(TITLE, (Paragraph(NOTHING),), "variance")
    out.csv(_data(splits), "variance_split")
    return Section(TITLE, (Paragraph(READING), _table(splits, table.score.unit)), "variance")


def _data(splits: dict[str, VarianceSplit]) -> pd.DataFrame:
    lines = []
    for method, split in splits.items():
        for source in SOURCES:
            one: VarianceComponent | None = getattr(split, source)
            if one is not None:
                lines.append({"method": method, "n": split.n_trials, "source": source} | vars(one))
    return pd.DataFrame(lines)


def _table(splits: dict[str, VarianceSplit], unit: str) -> Table:
    headings = (
        Heading("method", numeric=False),
        Heading("trials"),
        *(Heading(name, unit, meaning) for name, meaning in SOURCES.values()),
    )
    lines = [
        (
            f"`{method}`" if method else "all trials",
            f"{split.n_trials:,}",
            *(_cell(getattr(split, source)) for source in SOURCES),
        )
        for method, split in splits.items()
    ]
    caption = "Standard deviations (90 % interval), and the share of each in the variance."
    return Table(caption, headings, tuple(lines), tuple(splits))


def _cell(one: VarianceComponent | None) -> str:
    if one is None:
        return "not known"
    return f"{plain(one.sd)} ({plain(one.low)} {DASH} {plain(one.high)}), {percentage(one.share)}"
