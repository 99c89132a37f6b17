"""Each method: what matters, which values are good, when to stop; or why that is withheld."""

from collections.abc import Sequence

from ray_unlearn.analysis.figures.importance_dots import importance_figure
from ray_unlearn.analysis.figures.region_profiles import reading_regions, region_figure
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.numerals import number, percentage
from ray_unlearn.analysis.report.claims_section import claims_of
from ray_unlearn.analysis.report.page import (
    Block,
    Fold,
    Heading,
    Paragraph,
    Section,
    Table,
    bullets_of,
    paragraphs,
)
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.statistics.stopping_regret import StoppingRule
from ray_unlearn.spec.guideline_file import Guideline, Reason

TITLE = "Each method: what matters, which values are good, when to stop"
STOPPING = (
    "The rule `stop_rule`: stop at the first evaluation whose forget perplexity reaches that of "
    "unseen text (selection half), else run to the end. Its price is the score at that evaluation "
    "less the score at the best step of the same trial (`best_row`), which the selection half "
    "chose and the reporting half scored."
)
NO_STOPPING = (
    "No stopping rule is judged: that takes forget perplexity, its target, and two evaluations of "
    "a trial."
)
ORDER = (
    "First what matters at all; then, method by method, which values are good; last, when to stop."
)
NO_IMPORTANCE = (
    "How much each hyperparameter matters is withheld: that takes 8 trials in the top quarter of a "
    "method."
)


def methods_section(
    findings: Findings, guidelines: Sequence[Guideline], out: ReportFolder
) -> Section:
    """What matters, then a section for each method with a profile, then the stopping rule."""
    importance = out.pictures({"What matters": lambda: importance_figure(findings)})
    methods = _by_method(findings, guidelines, out)
    stopping = stopping_table(findings)
    texts = [ORDER if importance else NO_IMPORTANCE, *_bare(findings)]
    texts += [reading_regions(findings)] if methods else []
    texts += [NO_STOPPING] if stopping is None else []
    blocks: list[Block] = [*paragraphs(texts), *importance, *methods]
    if stopping is not None:
        blocks.append(Section("When to stop", (Paragraph(STOPPING), stopping), "stopping"))
    return Section(TITLE, tuple(blocks), "methods")


def _by_method(
    findings: Findings, guidelines: Sequence[Guideline], out: ReportFolder
) -> list[Section]:
    """Methods with a claim, or with reasons of their own; then those without, by their reasons."""
    sections = []
    silent: dict[tuple[Reason, ...], list[MethodFindings]] = {}
    for method in filter(_has_profile, findings.methods.values()):
        own = _own(method, guidelines)
        reasons = {g.withheld_because for g in own}
        if len(reasons) == 1 and all(g.status == "withheld" for g in own):
            silent.setdefault(reasons.pop(), []).append(method)
        else:
            sections.append(_method(findings, method, own, out))
    return sections + [_silent(findings, why, found, out) for why, found in silent.items()]


def _has_profile(method: MethodFindings) -> bool:
    return any(len(region.grid) for region in method.regions)


def _bare(findings: Findings) -> list[str]:
    """Methods without any profile, by why."""
    bare: dict[str, list[str]] = {}
    for method in findings.methods.values():
        if not _has_profile(method):
            bare.setdefault(_why_bare(method), []).append(_name(method))
    return [
        f"{', '.join(names)}: no good region can be drawn ({why})." for why, names in bare.items()
    ]


def _why_bare(method: MethodFindings) -> str:
    if method.trials.empty:
        return "none of its trials lies inside the search space"
    reasons = [region.reason for region in method.regions if region.reason]
    return reasons[0] if reasons else "no hyperparameter was varied"


def _name(method: MethodFindings) -> str:
    return f"`{method.method}`" if method.method else "all trials"


def _own(method: MethodFindings, guidelines: Sequence[Guideline]) -> list[Guideline]:
    """Claims about one method alone; comparisons and interactions have sections of their own."""
    own = [g for g in guidelines if g.scope.method == (method.method or None)]
    return [g for g in own if g.kind not in ("method_choice", "interaction")]


def _method(
    findings: Findings, method: MethodFindings, own: Sequence[Guideline], out: ReportFolder
) -> Section:
    name = method.method or "all"
    held = [g.text for g in own if g.status == "withheld"]
    picture = out.pictures({"Good values": lambda: region_figure(findings, method)})
    return Section(
        method.method or "All trials",
        (*claims_of(own), *bullets_of(held, muted=True), *picture),
        f"method-{out.unique(name)}",
        mark=method.method,
    )


def _silent(
    findings: Findings, why: Sequence[Reason], methods: Sequence[MethodFindings], out: ReportFolder
) -> Section:
    """Methods about which nothing is claimed for one reason: said once, curves on request."""
    anchor = out.unique("without-a-claim")
    makers = {
        f"Good values: {method.method}": lambda method=method: region_figure(findings, method)
        for method in methods
    }
    one = len(methods) == 1 and methods[0].method
    reasons = "; ".join(reason.text for reason in why)
    text = f"{', '.join(map(_name, methods))}: nothing is claimed. {reasons}."
    curves = Fold("Curves for orientation only", out.pictures(makers))
    return Section(one or "Without a claim", (Paragraph(text), curves), anchor)


def stopping_table(findings: Findings) -> Table | None:
    """Price and savings of the stopping rule by method; None where it is judged for none."""
    rules = {name: m.stopping for name, m in findings.methods.items() if m.stopping is not None}
    if not rules:
        return None
    headings = (
        Heading("method", numeric=False),
        Heading("trials", "", "with two evaluations or more"),
        Heading("reach the target", "95 % interval"),
        Heading("price", "mean", "score lost against the trial's best step"),
        Heading("price", "90 % interval", "trials resampled within groups"),
        Heading("to the last step", "mean price", "of running to the last evaluation instead"),
        Heading("updates saved", "of planned", "mean over trials that reach the target"),
        Heading("no score", "at the rule", "diverged"),
        Heading("no score", "at the last step", "diverged"),
    )
    return Table(
        "What the stopping rule costs and saves. Price in units of the score.",
        headings,
        tuple(_stopping_line(name, rule) for name, rule in rules.items()),
        tuple(rules),
    )


def _stopping_line(name: str, rule: StoppingRule) -> tuple[str, ...]:
    crossed, (low, high) = rule.crossed, rule.regret_interval
    last, saved = rule.regret_last_mean, rule.updates_saved
    return (
        f"`{name}`",
        f"{rule.n_trials:,}",
        f"{percentage(crossed.fraction)} ({percentage(crossed.low)} \u2013 "
        f"{percentage(crossed.high)})",
        number(rule.regret_mean),
        f"{number(low)} \u2013 {number(high)}",
        number(last if last is not None else float("nan")),
        percentage(saved if saved is not None else float("nan")),
        f"{rule.n_infeasible:,}",
        f"{rule.n_infeasible_last:,}",
    )
