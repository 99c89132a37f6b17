"""The published question, answered by the trials whichever way it comes out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.analysis.guidelines.findings import Findings
from ray_unlearn.analysis.guidelines.sentences import STATISTICS
from ray_unlearn.analysis.numerals import counted, plain
from ray_unlearn.analysis.report.study_tables import DIRECTIONS
from ray_unlearn.analysis.statistics.contests import RobustnessClaim
from ray_unlearn.analysis.statistics.paired_difference import PairedDifference
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.guideline_file import Guideline

QUESTION = (
    "Is ascent + descent on in-distribution data more robust to hyperparameters than plain ascent?"
)
WORDS = {
    "more robust": "Yes",
    "less robust": "No, less robust",
    "not settled": "Not settled by these trials",
}


@dataclass(frozen=True)
class PublishedAnswer:
    """The answer in a few words, and the numbers it rests on."""

    words: str
    numbers: tuple[str, ...]


def published_answer(findings: Findings | None, guidelines: Sequence[Guideline]) -> PublishedAnswer:
    """What the trials say; guidelines: all claims, among them the one about this question."""
    if findings is None or (claim := findings.headline) is None:
        needed = (
            "It takes both methods, with at least 8 trials of each drawn from the search space in "
            "one domain or model."
        )
        return PublishedAnswer("Not answered here", (needed,))
    words = WORDS[claim.outcome]
    numbers = [
        _comparison(claim),
        *(difference_sentence(d, findings.table) for d in claim.differences),
        _beyond(claim),
    ]
    if claim.outcome != "not settled":
        words += f", by {claim.outcomes.count(claim.outcome)} of {len(claim.outcomes)} statistics"
    own = [g for g in guidelines if g.kind == "method_choice" and g.id != "method_choice/best"]
    found = own[0] if own else None
    if found is not None and found.status == "claimed":
        words += f" [{found.grade}]"
    elif claim.outcome != "not settled":
        words += ", say these trials; it is not claimed"
        numbers += [f"Withheld because: {found.why}."] if found is not None else []
    return PublishedAnswer(words, tuple(numbers))


def _comparison(claim: RobustnessClaim) -> str:
    groups = len(claim.differences[0].groups)
    return (
        f"`{claim.method_a}` against `{claim.method_b}`, paired in {counted(groups, 'group')}. "
        f"Three statistics, taken together at 5 % (Holm), say: {claim.outcome}."
    )


def difference_sentence(found: PairedDifference, table: TrialTable) -> str:
    """One statistic: mean difference, interval, in how many groups."""
    difference, (low, high) = found.as_given(table.score.direction)
    groups = found.groups
    means = [sum(g.a for g in groups) / len(groups), sum(g.b for g in groups) / len(groups)]
    better = ""
    if not found.larger_is_better:
        means = [table.as_given(mean) for mean in means]
        better = f" ({DIRECTIONS[table.score.direction]})"
    return (
        f"{STATISTICS[found.statistic].capitalize()}{better}: {plain(means[0])} against "
        f"{plain(means[1])}, difference {plain(difference)} (90 % interval {plain(low)} to "
        f"{plain(high)}), better in {found.better} of {len(groups)}."
    )


def _beyond(claim: RobustnessClaim) -> str:
    if claim.outcome_beyond is None:
        return "For other domains or models nothing follows: that takes five groups or more."
    return f"For other groups like these: {claim.outcome_beyond}."
