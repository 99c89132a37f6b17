"""Methods compared, interactions, transfer, and the difference from an earlier study."""

from collections.abc import Sequence

import pandas as pd

from ray_unlearn.analysis.figures.heldout_regret import heldout_data, heldout_figure
from ray_unlearn.analysis.figures.kappa_intervals import kappa_figure
from ray_unlearn.analysis.figures.paired_groups import paired_figure
from ray_unlearn.analysis.figures.pareto_fronts import pareto_figure
from ray_unlearn.analysis.figures.tuning_curves import tuning_figure
from ray_unlearn.analysis.guidelines.findings import HEADLINE, Findings
from ray_unlearn.analysis.guidelines.guideline_diff import ClaimChange
from ray_unlearn.analysis.guidelines.sentences import label
from ray_unlearn.analysis.numerals import number
from ray_unlearn.analysis.report.claims_section import INTERACTIONS, claims_of
from ray_unlearn.analysis.report.hypervolumes import hypervolume_data, hypervolume_table
from ray_unlearn.analysis.report.page import (
    Block,
    Heading,
    Paragraph,
    Section,
    Table,
    bullets_of,
    paragraphs,
)
from ray_unlearn.analysis.report.published_question import QUESTION, PublishedAnswer
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.spec.guideline_file import Guideline

NO_SHARES = (
    "Tuning curves and shares of good configurations are withheld: they need trials drawn from the "
    "search space."
)
NO_CURVES = "Tuning curves are withheld: every method needs 4 trials drawn from the search space."
NO_UTILITY = "Forgetting against utility is not drawn: the table has no such columns."
NO_KAPPA = (
    "Withheld: a trade-off between learning rate and steps, or weight, takes 12 trials of a method "
    "drawn from the search space."
)
NO_PRODUCT = (
    "For no method is it claimed that learning rate times steps is what counts; the reasons are "
    "under what is open."
)
UNSEEN = "Transfer to what was not seen"


def compared_section(findings: Findings, answer: PublishedAnswer, out: ReportFolder) -> Section:
    """How much tuning each method needs, the published comparison, and the trades they offer."""
    volumes = hypervolume_data(findings.table)
    if len(volumes):
        out.csv(volumes, "hypervolume")
    pictures = out.pictures(
        {
            "Tuning curves": lambda: tuning_figure(findings),
            "Paired differences": lambda: paired_figure(findings),
            "Pareto fronts": lambda: pareto_figure(findings),
        }
    )
    texts = [_without_tuning(findings)]
    if len(findings.methods) == 1:
        texts.append("One method: there is nothing to compare it with.")
    texts.append("" if {"forget_gap", "utility_loss"} <= set(findings.table.rows) else NO_UTILITY)
    blocks: list[Block] = [*paragraphs([text for text in texts if text])]
    if len(findings.methods) > 1 and set(HEADLINE) & set(findings.methods):
        blocks.append(_question(answer))
    blocks += pictures
    if len(volumes):
        blocks.append(hypervolume_table(volumes, findings.table.methods))
    return Section("Methods compared", tuple(blocks), "compared")


def _question(answer: PublishedAnswer) -> Section:
    """The published question, with its answer and the numbers behind it."""
    first, *numbers = answer.numbers
    lead = Paragraph(first, strong=f"{answer.words}.")
    return Section(QUESTION, (lead, *bullets_of(numbers)), style="question")


def _without_tuning(findings: Findings) -> str:
    methods = findings.methods.values()
    if any(method.curve is not None for method in methods):
        return ""
    return NO_CURVES if any(method.good_share is not None for method in methods) else NO_SHARES


def interactions_section(
    findings: Findings, guidelines: Sequence[Guideline], out: ReportFolder
) -> Section:
    """Whether one hyperparameter can make up for another."""
    claims = claims_of([g for g in guidelines if g.kind in INTERACTIONS])
    pictures = out.pictures({"Interactions": lambda: kappa_figure(findings)})
    text = NO_KAPPA if not pictures else NO_PRODUCT if not claims else ""
    return Section(
        "Interactions", (*paragraphs([text] if text else []), *claims, *pictures), "interactions"
    )


def transfer_section(findings: Findings, out: ReportFolder) -> Section:
    """What good regions buy on a group that they were derived without."""
    data = heldout_data(findings)
    if data.empty:
        return Section(
            UNSEEN, (Paragraph(_why_no_transfer(len(findings.table.groups))),), "transfer"
        )
    better = int((data["regret"] < data["regret_full_space"]).sum())
    text = (
        f"In {better} of {len(data)} cases k trials inside a region derived without the group do "
        "better on it than k trials in the full space. With 3 or 4 groups that can be chance "
        "whatever it shows, so no grade above C rests on it."
    )
    pictures = out.pictures({"Transfer": lambda: heldout_figure(findings)})
    return Section(UNSEEN, (Paragraph(text), *pictures, _transfer_table(data)), "transfer")


def _why_no_transfer(groups: int) -> str:
    if groups < 2:
        return "Not testable: all trials are of one group (domain, model), so none can be held out."
    return (
        f"Withheld: from {groups} groups with one left out no good region can be derived that "
        "holds trials of the one left out."
    )


def _transfer_table(data: pd.DataFrame) -> Table:
    lines = [
        (
            f"`{d['method']}`" if d["method"] else "all trials",
            str(d["group"]),
            region_for_people(d["region"]),
            f"{d['n_inside']} of {d['n_trials']}",
            f"{d['k']}",
            number(d["regret"]),
            number(d["regret_full_space"]),
            number(d["regret_default"]),
            "more than tried" if pd.isna(d["matches"]) else f"{d['matches']:.0f}",
        )
        for d in data.to_dict("records")
    ]
    worth = "trials in the full space that do as well as k inside"
    headings = (
        Heading("method", numeric=False),
        Heading("held out", numeric=False),
        Heading("region from the others", numeric=False),
        Heading("trials inside"),
        Heading("k"),
        Heading("regret inside", "\u2193"),
        Heading("full space", "\u2193"),
        Heading("default", "\u2193"),
        Heading("worth", "trials outside", worth),
    )
    caption = "Each method on each group held out."
    return Table(caption, headings, tuple(lines), tuple(data["method"]))


def region_for_people(region: str) -> str:
    """Bounds with names; an open side is the end of what was searched."""
    pieces = (piece.partition(" ") for piece in region.split("; "))
    named = (f"{label(name)} {bounds}" for name, _, bounds in pieces)
    return "; ".join(
        bounds.replace("-inf to ", "up to ").replace(" to inf", " and more") for bounds in named
    )


def difference_section(
    found: Sequence[ClaimChange] | None, of_scores: Sequence[str] = ()
) -> Section:
    """What changed since an older file; one sentence where none was given.

    Args:
        found: how each claim changed; None: no older file.
        of_scores: how the two scores differ.
    """
    notes = bullets_of([f"{text[0].upper()}{text[1:]}." for text in of_scores])
    blocks = (*notes, *_changes(found))
    return Section("Difference from the previous study", blocks, "difference")


def _changes(found: Sequence[ClaimChange] | None) -> tuple[Block, ...]:
    if found is None:
        text = "No earlier guidelines.json was given (`--since OLD.json`), so nothing is compared."
        return (Paragraph(text),)
    if not found:
        return (Paragraph("Neither file claims anything."),)
    changed = [d.text for d in found if d.change != "unchanged"]
    same = len(found) - len(changed)
    verb = "is" if same == 1 else "are"
    text = f"{len(changed)} of {len(found)} claims differ; {same} {verb} unchanged."
    return (Paragraph(text), *bullets_of(changed))
