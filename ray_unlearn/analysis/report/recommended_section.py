"""The first thing on the page: which setting to run, and what that may cost."""

from ray_unlearn.analysis.guidelines.sentences import label, tolerance
from ray_unlearn.analysis.numerals import DASH, counted, plain
from ray_unlearn.analysis.report.claims_section import ranges_in_short
from ray_unlearn.analysis.report.page import Heading, Paragraph, Table
from ray_unlearn.spec.guideline_file import AtStrength, Guidelines, Recommendation, ScoreInfo

CAPTION = (
    "One line per method, the best expected score first where all methods were run in the same "
    "groups. Probabilities are lower bounds and costs upper bounds: with few trials they are "
    "cautious."
)
HEADINGS: tuple[Heading, ...] = (
    Heading("Method", numeric=False),
    Heading("Setting", numeric=False, wide=True),
    Heading("Good range", "where one is stated, with its grade", numeric=False, wide=True),
    Heading("Updates", "typical", "updates after which the trials nearest to it are scored"),
    Heading("Strength", "typical", "where those trials are scored: as trained, or at the target"),
    Heading("Score", "expected", "of the response surface there; of the best trial without one"),
    Heading("Good", "probability, at least", "within the tolerance of the method's best"),
    Heading("Costs", "at most, 95 %", "score lost against the method's best"),
    Heading(
        "Still to gain", "at most, 95 %", "by which the best trial so far could still be improved"
    ),
    Heading("Trials"),
)
"""A column without any entry is left out."""


def recommended_box(guidelines: Guidelines) -> Paragraph:
    """What to run, of the first method.

    Args:
        guidelines: recommendations, of which there is one at least, best trials, and the score.
    """
    first = guidelines.recommendations[0]
    sentences = [recommendation_sentence(first, guidelines.score)]
    sentences += _another_method_leads(guidelines)
    return Paragraph(" ".join(sentences), strong=f"{setting_in_words(first)}.", style="box")


def recommended_table(guidelines: Guidelines) -> Table:
    """A line per method: its setting, probability and cost, and the ranges that are stated."""
    found = guidelines.recommendations
    lines = []
    for one in found:
        method, setting, *numbers = _line(one)
        ranges = ranges_in_short(guidelines.guidelines, one.method) or DASH
        lines.append((method, setting, ranges, *numbers))
    columns = zip(HEADINGS, zip(*lines, strict=True), strict=True)
    headings, cells = zip(*(pair for pair in columns if set(pair[1]) != {DASH}), strict=True)
    marks = tuple(one.method or "" for one in found) if found[0].method else ()
    return Table(CAPTION, headings, tuple(zip(*cells, strict=True)), marks)


def _another_method_leads(guidelines: Guidelines) -> list[str]:
    """That the best single trial is another method's, where it is: the page names both."""
    first, best = guidelines.recommendations[0], guidelines.best_trials
    if len({trial.study for trial in best}) != 1:
        return []
    turn = 1 if guidelines.score.direction == "minimize" else -1
    leader = min(best, key=lambda trial: turn * trial.score)
    if leader.method == first.method:
        return []
    expected = next(one for one in guidelines.recommendations if one.method == leader.method)
    return [
        f"The best single trial is one of `{leader.method}` (score {plain(leader.score)}); its "
        f"neighbours say {plain(expected.score)}, so a part of that is luck."
    ]


def recommendation_text(one: Recommendation, score: ScoreInfo) -> str:
    """A recommendation as a line of plain text."""
    text = f"{setting_in_words(one)}. {recommendation_sentence(one, score)}"
    return text.replace("`", "")


def setting_in_words(one: Recommendation) -> str:
    """`Run gradient_ascent with learning rate 3e-4, about 16 updates`."""
    parts = [f"{label(name)} {plain(value)}" for name, value in one.setting.items()]
    if one.updates is not None:
        parts.append(f"about {counted(round(one.updates.typical), 'update')}")
    if one.strength is not None:
        parts.append(strength_in_words(one.strength))
    what = f"`{one.method}`" if one.method else "the setting"
    return f"Run {what} with {', '.join(parts)}" if parts else f"Run {what}"


def strength_in_words(at: AtStrength) -> str:
    """`as trained`, or `mixed with the vanilla model to the forget target (strength about 0.7)`."""
    if not at.meets_target:
        return "as trained"
    with_what = "mixed with" if at.typical <= 1 else "extrapolated from"
    return f"{with_what} the vanilla model to the forget target (strength about {at.typical:.2g})"


def _strength(at: AtStrength) -> str:
    return f"{at.typical:.2g}, at the target" if at.meets_target else "as trained"


def recommendation_sentence(one: Recommendation, score: ScoreInfo) -> str:
    """What the setting of a recommendation rests on, and what it may cost."""
    trials = counted(one.n_trials, "trial")
    if one.regret is None or one.best_trial_regret is None:
        return (
            f"That is the best trial so far, of {trials}: too few for a response surface, so how "
            f"far it is from the best is not known.{_by_what(score)}"
        )
    unit = f" {score.unit}" if score.unit else ""
    return (
        f"It comes within {tolerance(score)} of the best that this method can reach with "
        f"probability {_probability(one.regret.p_good)} or more, and costs at most "
        f"{plain(one.regret.high)}{unit} (95 %). The best trial so far could still be improved by "
        f"at most {plain(one.best_trial_regret.high)}{unit}. This rests on {trials}."
        f"{_by_what(score)}"
    )


def _by_what(score: ScoreInfo) -> str:
    """What an objective beyond the weighted sum means for a setting; nothing without one."""
    if score.objective is None:
        return ""
    text = f" The score is by the objective `{score.objective}`"
    if "subject_to" not in score.objective:
        return f"{text}."
    return (
        f"{text}, at evaluations within the constraints; `ray-unlearn confirm` measures whether "
        "other seeds keep to them."
    )


def _probability(value: float) -> str:
    """Two digits, rounded down: a lower bound stays one."""
    return f"{int(value * 100) / 100:.2f}"


def _line(one: Recommendation) -> tuple[str, ...]:
    setting = ", ".join(f"{label(name)} {plain(value)}" for name, value in one.setting.items())
    updates, regret, best = one.updates, one.regret, one.best_trial_regret
    return (
        f"`{one.method}`" if one.method else "all trials",
        setting or "nothing was searched",
        DASH if updates is None else f"{updates.typical:.0f}",
        DASH if one.strength is None else _strength(one.strength),
        plain(one.score),
        DASH if regret is None else _probability(regret.p_good),
        DASH if regret is None else plain(regret.high),
        DASH if best is None else plain(best.high),
        f"{one.n_trials:,}",
    )
