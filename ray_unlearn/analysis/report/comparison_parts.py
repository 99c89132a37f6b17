"""Methods compared, interactions, transfer, and the difference from an earlier study."""

from collections.abc import Sequence

import pandas as pd

from ray_unlearn.analysis.figures import guideline_data, guideline_figures
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.guideline_diff import ClaimChange
from ray_unlearn.analysis.guidelines.sentences import label
from ray_unlearn.analysis.numerals import number, share
from ray_unlearn.analysis.report.claims_view import claim_view, headline_answer
from ray_unlearn.analysis.report.page_part import Part, pictures_of
from ray_unlearn.analysis.report.report_files import Output
from ray_unlearn.analysis.report.table_view import Heading, Shown
from ray_unlearn.spec.guideline_file import Guideline


def compared(findings: Findings, guidelines: Sequence[Guideline], out: Output) -> Part:
    texts = []
    tuning = guideline_figures.tuning_figure(findings)
    if tuning is None:
        texts.append(
            "Tuning curves and shares of good configurations are withheld: they need trials drawn from the search space."
        )
    elif (tuning.data["kind"] != "curve").all():
        texts.append(
            "Tuning curves are withheld: every method needs 4 trials drawn from the search space."
        )
    if len(findings.methods) < 2:
        texts.append("One method: there is nothing to compare it with.")
    answer, numbers = headline_answer(findings, guidelines)
    bullets: tuple[str, ...] = ()
    if findings.headline is not None:
        texts.append(f"{answer}. {numbers[0]}")
        bullets = tuple(numbers[1:])
    elif len(findings.methods) > 1:
        texts.append(
            f"The published comparison, ascent + descent on in-distribution data against plain ascent, is not made. {numbers[0]}"
        )
    pareto = guideline_figures.pareto_figure(findings)
    volumes = guideline_data.hypervolumes(findings.table)
    tables = (_volume_table(volumes, findings),) if len(volumes) else ()
    if len(volumes):
        out.csv(volumes, "hypervolume")
    if pareto is None:
        texts.append("Forgetting against utility is not drawn: the table has no such columns.")
    pictures = pictures_of(out, tuning, guideline_figures.paired_figure(findings), pareto)
    claims = tuple(
        claim_view(g) for g in guidelines if g.kind == "method_choice" and g.status == "claimed"
    )
    return Part(
        "compared",
        "Methods compared",
        tuple(texts),
        claims,
        bullets=bullets,
        pictures=pictures,
        tables=tables,
    )


def _volume_table(volumes: pd.DataFrame, findings: Findings) -> Shown:
    groups = list(dict.fromkeys(volumes["group"]))
    found = {(line["method"], line["group"]): line for line in volumes.to_dict("records")}
    shown = [method for method in findings.methods if method in set(volumes["method"])]
    cells = [
        (f"`{method}`", *(
            f"{share(v['expected'])} ({share(v['low'])} \u2013 {share(v['high'])})" if (v := found.get((method, group))) else "\u2013"
            for group in groups
        )) for method in shown
    ]  # fmt: skip
    k = int(volumes["trials"].iloc[0])
    caption = (
        f"Hypervolume of {k} random trials, with 90 % intervals: the share of the square between no loss at all and doing nothing (the vanilla "
        f"model's forget gap, and as much utility lost) in which the front of {k} trials is at least as good. \u2191 higher is better."
    )
    return Shown(
        caption,
        (Heading("method", numeric=False), *(Heading(group) for group in groups)),
        tuple(cells),
        tuple(shown),
    )


def interactions(findings: Findings, guidelines: Sequence[Guideline], out: Output) -> Part:
    found = [g for g in guidelines if g.kind == "interaction"]
    claims = tuple(claim_view(g) for g in found if g.status == "claimed")
    pictures = pictures_of(out, guideline_figures.kappa_figure(findings))
    texts: tuple[str, ...] = ()
    if not pictures:
        texts = (
            "Withheld: a trade-off between learning rate and steps, or weight, takes 12 trials of a method drawn from the search space.",
        )
    elif not claims:
        texts = (
            "For no method is it claimed that learning rate times steps is what counts; the reasons are under the verdict.",
        )
    return Part("interactions", "Interactions", texts, claims, pictures=pictures)


def transfer(findings: Findings, out: Output) -> Part:
    data = guideline_data.heldout(findings)
    if data.empty:
        groups = len(findings.table.groups)
        why = (
            "Not testable: all trials are of one group (domain, model), so none can be held out."
            if groups < 2
            else f"Withheld: from {groups} groups with one left out no good region can be derived that holds trials of the one left out."
        )
        return Part("transfer", "Transfer to what was not seen", (why,))
    drawing = guideline_figures.heldout_figure(findings)
    lines = [
        (f"`{d['method']}`" if d["method"] else "all trials", str(d["group"]), _inside(d["region"]), f"{d['n_inside']} of {d['n_trials']}",
         f"{d['k']}", number(d["regret"]), number(d["regret_full_space"]), number(d["regret_default"]),
         f"{d['matches']:.0f}" if d["matches"] is not None and d["matches"] == d["matches"] else "more than tried")
        for d in data.to_dict("records")
    ]  # fmt: skip
    headings = (
        Heading("method", numeric=False), Heading("held out", numeric=False), Heading("region from the others", numeric=False),
        Heading("trials inside"), Heading("k"), Heading("regret inside", "\u2193"), Heading("full space", "\u2193"),
        Heading("default", "\u2193"), Heading("worth", "trials outside", "trials in the full space that do as well as k inside"),
    )  # fmt: skip
    better = int((data["regret"] < data["regret_full_space"]).sum())
    text = (
        f"In {better} of {len(data)} cases k trials inside a region derived without the group do better on it than k trials in the full "
        "space. With 3 or 4 groups that can be chance whatever it shows, so no grade above C rests on it."
    )
    table = Shown(
        "Each method on each group held out.", headings, tuple(lines), tuple(data["method"])
    )
    return Part(
        "transfer",
        "Transfer to what was not seen",
        (text,),
        pictures=pictures_of(out, drawing),
        tables=(table,),
    )


def _inside(region: str) -> str:
    """Bounds for people: an open side is the end of what was searched."""
    return "; ".join(
        f"{label(name)} {bounds}".replace("-inf to ", "up to ").replace(" to inf", " and more")
        for name, _, bounds in (piece.partition(" ") for piece in region.split("; "))
    )


def difference_part(found: Sequence[ClaimChange] | None) -> Part:
    """What changed since an older file; one sentence where none was given."""
    title = "Difference from the previous study"
    if found is None:
        return Part(
            "difference",
            title,
            ("No earlier guidelines.json was given (`--since OLD.json`), so nothing is compared.",),
        )
    changed = [d for d in found if d.change != "unchanged"]
    same = len(found) - len(changed)
    if not found:
        return Part("difference", title, ("Neither file claims anything.",))
    text = f"{len(changed)} of {len(found)} claims differ; {same} {'is' if same == 1 else 'are'} unchanged."
    return Part("difference", title, (text,), bullets=tuple(d.text for d in changed))
