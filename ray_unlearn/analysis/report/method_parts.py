"""Each method: what matters, which values are good, when to stop; or in a sentence why that is
withheld."""

from collections.abc import Sequence

from ray_unlearn.analysis.figures import guideline_figures
from ray_unlearn.analysis.guidelines.findings import Findings, MethodFindings
from ray_unlearn.analysis.numerals import number, share
from ray_unlearn.analysis.report.claims_view import claim_view
from ray_unlearn.analysis.report.page_part import Part, pictures_of
from ray_unlearn.analysis.report.report_files import Output
from ray_unlearn.analysis.report.table_view import Heading, Shown
from ray_unlearn.spec.guideline_file import Guideline, Reason


def methods_part(findings: Findings, guidelines: Sequence[Guideline], out: Output) -> Part:
    """What matters, then a part for each method with a profile, then the stopping rule."""
    parts = []
    bare: dict[str, list[str]] = {}
    silent: dict[tuple[Reason, ...], list[MethodFindings]] = {}
    for method in findings.methods.values():
        own = _own(method, guidelines)
        reasons = {g.withheld_because for g in own}
        if not any(len(region.grid) for region in method.regions):
            bare.setdefault(_why_bare(method), []).append(_name(method))
        elif len(reasons) == 1 and all(g.status == "withheld" for g in own):
            silent.setdefault(reasons.pop(), []).append(method)
        else:
            parts.append(_method(findings, method, own, out))
    parts += [_silent(findings, why, found, out) for why, found in silent.items()]
    texts = [
        f"{', '.join(names)}: no good region can be drawn ({why})." for why, names in bare.items()
    ]  # fmt: skip
    importance = pictures_of(out, guideline_figures.importance_figure(findings))
    if importance:
        texts.insert(
            0,
            "First what matters at all; then, method by method, which values are good; last, when to stop.",
        )
    else:
        texts.append(
            "How much each hyperparameter matters is withheld: that takes 8 trials in the top quarter of a method."
        )
    if parts:
        texts.append(guideline_figures.reading_regions(findings))
    stopping = _stopping(findings)
    if stopping is not None:
        tables: tuple[Shown, ...] = (stopping,)
    else:
        tables = ()
        texts.append(
            "No stopping rule is judged: that takes forget perplexity, its target, and two evaluations of a trial."
        )
    return Part(
        "methods", "Each method: what matters, which values are good, when to stop", tuple(texts), pictures=importance,
        parts=tuple([*parts, *([Part("stopping", "When to stop", (STOPPING,), tables=tables)] if tables else [])]),
    )  # fmt: skip


STOPPING = (
    "The rule: stop at the first evaluation whose forget perplexity reaches that of unseen text (selection half), else run to the end. Its "
    "price is the score lost against the best step of the same trial, which the selection half chose and the reporting half scored."
)


def _why_bare(method: MethodFindings) -> str:
    if method.trials.empty:
        return "none of its trials is known to be drawn from the search space"
    reasons = [region.reason for region in method.regions if region.reason]
    return reasons[0] if reasons else "no hyperparameter was varied"


def _name(method: MethodFindings) -> str:
    return f"`{method.method}`" if method.method else "all trials"


def _own(method: MethodFindings, guidelines: Sequence[Guideline]) -> list[Guideline]:
    """Claims about one method alone; comparisons and interactions have parts of their own."""
    elsewhere = ("method_choice", "interaction")
    return [
        g
        for g in guidelines
        if g.scope.method == (method.method or None) and g.kind not in elsewhere
    ]


def _method(
    findings: Findings, method: MethodFindings, own: Sequence[Guideline], out: Output
) -> Part:
    return Part(
        f"method-{out.unique(method.method or 'all')}", method.method or "All trials",
        claims=tuple(claim_view(g) for g in own if g.status == "claimed"), held=tuple(g.text for g in own if g.status == "withheld"),
        pictures=pictures_of(out, guideline_figures.region_figure(findings, method)), mark=method.method,
    )  # fmt: skip


def _silent(
    findings: Findings, why: Sequence[Reason], methods: Sequence[MethodFindings], out: Output
) -> Part:
    """Methods of which nothing is claimed, for one reason: said once, curves on request."""
    drawings = [guideline_figures.region_figure(findings, method) for method in methods]
    return Part(
        out.unique("without-a-claim"), "Without a claim" if len(methods) > 1 or not methods[0].method else methods[0].method,
        (f"{', '.join(map(_name, methods))}: nothing is claimed. {'; '.join(reason.text for reason in why)}.",),
        pictures=pictures_of(out, *drawings), folded="Curves for orientation only",
    )  # fmt: skip


def _stopping(findings: Findings) -> Shown | None:
    lines, marks = [], []
    for name, method in findings.methods.items():
        rule = method.stopping
        if rule is None:
            continue
        low, high = rule.regret_interval
        marks.append(name)
        lines.append((
            f"`{name}`", f"{rule.n_trials:,}", f"{share(rule.crossed.fraction)} ({share(rule.crossed.low)} \u2013 {share(rule.crossed.high)})",
            number(rule.regret_mean), f"{number(low)} \u2013 {number(high)}",
            number(rule.regret_last_mean if rule.regret_last_mean is not None else float("nan")),
            share(rule.updates_saved if rule.updates_saved is not None else float("nan")), f"{rule.n_infeasible:,}", f"{rule.n_infeasible_last:,}",
        ))  # fmt: skip
    if not lines:
        return None
    headings = (
        Heading("method", numeric=False), Heading("trials", "", "with two evaluations or more"),
        Heading("reach the target", "95 % interval"), Heading("price", "mean", "score lost against the trial's best step"),
        Heading("price", "90 % interval", "trials resampled within groups"),
        Heading("to the last step", "mean price", "of running to the last evaluation instead"),
        Heading("updates saved", "of planned", "mean over trials that reach the target"),
        Heading("infeasible", "at the rule"), Heading("infeasible", "at the last step"),
    )  # fmt: skip
    return Shown(
        "What the stopping rule costs and saves. Price in units of the score.",
        headings,
        tuple(lines),
        tuple(marks),
    )
