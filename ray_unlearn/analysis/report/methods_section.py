"""Each method: what matters, which values are good, when to stop; or why that is withheld."""

from collections.abc import Sequence

from ray_unlearn.analysis.figures.importance_dots import importance_figure
from ray_unlearn.analysis.figures.region_profiles import (
    MOST_COLUMNS,
    profiled,
    reading_regions,
    region_figure,
)
from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.method_findings import MethodFindings
from ray_unlearn.analysis.numerals import counted, number, percentage
from ray_unlearn.analysis.report.claims_section import claims_of, said_of
from ray_unlearn.analysis.report.first_screen import shown_first
from ray_unlearn.analysis.report.page import (
    Block,
    Fold,
    Heading,
    Paragraph,
    Section,
    Table,
    paragraphs,
)
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.statistics.stopping_regret import StoppingRule
from ray_unlearn.spec.guideline_file import Guideline, Guidelines

TITLE = "Each method: what matters, which values are good, when to stop"
STOPPING = (
    "The rule `stop_rule`: stop at the first evaluation whose forget perplexity reaches that of "
    "unseen text (selection half), else run to the end. Its price is the score at that evaluation "
    "less the score at the best step of the same trial (`best_row`), which the selection half "
    "chose and the reporting half scored. A model worse than doing nothing, or ruined, counts as "
    "doing nothing, where the score of that is known."
)
NO_STOPPING = (
    "No stopping rule is judged: that takes forget perplexity, its target, and two evaluations of "
    "a trial."
)
HOW_TO_READ = "How to read the figures of good values"
NO_IMPORTANCE = (
    "Whether a hyperparameter matters is not known: that takes 8 trials of a method in each group."
)


def methods_section(findings: Findings, found: Guidelines, out: ReportFolder) -> Section:
    """What matters, then a section for each method, then the stopping rule."""
    importance = out.pictures({"What matters": lambda: importance_figure(findings)})
    methods = _by_method(findings, found, out)
    stopping = stopping_table(findings)
    texts = [*([] if importance else [NO_IMPORTANCE]), *_bare(findings)]
    texts += [NO_STOPPING] if stopping is None else []
    blocks: list[Block] = [*paragraphs(texts), *importance]
    if any(map(_has_profile, findings.methods.values())):
        blocks.append(Fold(HOW_TO_READ, (Paragraph(reading_regions(findings)),)))
    blocks += methods
    if stopping is not None:
        blocks.append(Section("When to stop", (Paragraph(STOPPING), stopping), "stopping"))
    return Section(TITLE, tuple(blocks), "methods")


def _by_method(findings: Findings, found: Guidelines, out: ReportFolder) -> list[Section]:
    """Methods of which something is said, one screen each; then the others together."""
    sections, silent = [], []
    for method in findings.methods.values():
        if own := said_of(found.guidelines, method.method):
            sections.append(_method(findings, method, own, found, out))
        elif _has_profile(method):
            silent.append(method)
    return sections + ([_silent(findings, silent, found, out)] if silent else [])


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


def _method(
    findings: Findings,
    method: MethodFindings,
    own: Sequence[Guideline],
    found: Guidelines,
    out: ReportFolder,
) -> Section:
    """Claims and the figure of what matters most; other hyperparameters on request."""
    return Section(
        method.method or "All trials",
        (*claims_of(own), *_pictures(findings, method, found, out)),
        f"method-{out.unique(method.method or 'all')}",
        mark=method.method,
    )


def _pictures(
    findings: Findings, method: MethodFindings, found: Guidelines, out: ReportFolder
) -> tuple[Block, ...]:
    """Good values of a method: a line of panels, the rest folded; none that is drawn above."""
    above = shown_first(findings)
    params = [name for name in profiled(method) if name not in above]
    first, rest = params[:MOST_COLUMNS], params[MOST_COLUMNS:]
    settings = {one.method or "": one.setting for one in found.recommendations}
    setting = settings.get(method.method, {})

    def drawn(params: Sequence[str], part: str) -> tuple[Block, ...]:
        title = f"Good values: {method.method}"
        return out.pictures({title: lambda: region_figure(findings, method, params, setting, part)})

    blocks = drawn(first, "others" if above else "")
    if rest:
        count = counted(len(rest), "more hyperparameter")
        blocks += (Fold(f"Good values of {count}", drawn(rest, "more")),)
    return blocks


def _silent(
    findings: Findings, methods: Sequence[MethodFindings], found: Guidelines, out: ReportFolder
) -> Section:
    """Methods of which nothing is claimed: curves on request; the first screen has the reasons."""
    one = len(methods) == 1 and methods[0].method
    text = f"{', '.join(map(_name, methods))}: nothing is claimed; the reasons are above."
    curves = tuple(block for method in methods for block in _pictures(findings, method, found, out))
    folds = (Fold("Curves for orientation only", curves),) if curves else ()
    anchor = out.unique("without-a-claim")
    return Section(one or "Without a claim", (Paragraph(text), *folds), anchor)


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
        Heading("price", "90 % interval", "of the mean"),
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
