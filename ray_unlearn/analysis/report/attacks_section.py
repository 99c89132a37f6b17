"""What attacks on chosen models took back (`ray-unlearn attack`, `confirm --attacks`)."""

from collections.abc import Iterator, Sequence

import pandas as pd

from ray_unlearn.analysis.guidelines.confirmation import attack_intervals
from ray_unlearn.analysis.numerals import fixed, percentage
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Block, Bullets, Heading, Paragraph, Section, Table
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.store.attack_file import (
    RETRAINED,
    TRIAL,
    VANILLA,
    AttackedModel,
    AttackOutcome,
    strongest,
)
from ray_unlearn.store.schema import at_strength

READING = (
    "Chosen models under attack, beside the vanilla and the exactly retrained model under the same "
    "attack: descent on a share of the forget set or on related text (relearn), weights rounded to "
    "few bits (quantise), other words before or instead of the documents (prompts). Numbers are "
    "forget NLL in nats/token. Undone is the share of the rise over the vanilla model that comes "
    "back: 0 % nothing, 100 % all. A model can also learn what it never knew, so the retrained "
    "model's share is what to compare with."
)
CAPTION = "Forget NLL before and under each attack, and the share undone."


def attacks_section(studies: Sequence[StudyResults], out: ReportFolder) -> list[Section]:
    """A table of all attacked models and a line for each confirmed one; none without attacks.

    Writes `data/attacks.csv`.
    """
    known = [(study, model) for study in studies for model in study.attacks]
    if not known:
        return []
    lines = [{"study": study.key} | line for study, model in known for line in model.lines]
    out.csv(pd.DataFrame(lines), "attacks")
    own = [(study, model) for study, model in known if not model.confirmation]
    several = len(studies) > 1
    blocks: list[Block] = [Paragraph(READING)]
    if own:
        blocks.append(_table(own, several))
    confirmed = [line for study in studies for line in _confirmed(study, several)]
    blocks += [Bullets(tuple(confirmed))] if confirmed else []
    return [Section("Attacks", tuple(blocks), "attacks")]


def _table(models: Sequence[tuple[StudyResults, AttackedModel]], several: bool) -> Table:
    headings = (
        Heading("method", numeric=False),
        Heading("model", numeric=False),
        Heading("attack", numeric=False),
        Heading("before", "nats"),
        Heading("under attack", "nats"),
        Heading("undone", meaning="share of what the model had forgotten"),
        Heading("vanilla under attack", "nats"),
        Heading("retrained under attack", "nats"),
        Heading("undone of the retrained"),
    )
    lines, marks = [], []
    for study, model in models:
        where = f"trial {model.number}, update {model.update}"
        where += at_strength({"strength": model.strength})
        for one in model.outcomes:
            name = f"{study.key}: {where}" if several else where
            lines.append((f"`{model.method}`", name, f"{one.attack}: {one.setting}", *_cells(one)))
            marks.append(model.method)
    return Table(CAPTION, headings, tuple(lines), tuple(marks))


def _cells(one: AttackOutcome) -> tuple[str, ...]:
    return (
        _nats(one.before.get(TRIAL)),
        _nats(one.nll.get(TRIAL)),
        _undone(one, TRIAL),
        _nats(one.nll.get(VANILLA)),
        _nats(one.nll.get(RETRAINED)),
        _undone(one, RETRAINED),
    )


def _nats(nll: float | None) -> str:
    return fixed(float("nan") if nll is None else nll, 3)


def _undone(one: AttackOutcome, model: str) -> str:
    share = one.undone(model)
    # + 0.0: no minus before a zero
    return percentage(float("nan") if share is None else round(share, 2) + 0.0)


def _confirmed(study: StudyResults, several: bool) -> Iterator[str]:
    """A sentence for each configuration whose repeats were attacked."""
    groups: dict[tuple[str, str, str], list[AttackedModel]] = {}
    for model in study.attacks:
        if model.confirmation:
            key = (model.confirmation, model.method, model.confirms)
            groups.setdefault(key, []).append(model)
    for (folder, method, trial_id), models in groups.items():
        found = attack_intervals(models)
        parts = []
        for attack in dict.fromkeys(one.attack for one in models[0].outcomes):
            hardest = strongest(models[0].of(attack))
            assert hardest is not None, "it is one of them"
            interval = found[f"{attack}: {hardest.setting}"]
            if interval.mean is None:
                continue
            ends = ""
            if interval.low is not None and interval.high is not None:
                ends = f" ({percentage(interval.low)} to {percentage(interval.high)})"
            parts.append(f"{hardest.setting} undo {percentage(interval.mean)}{ends}")
        of = f"{study.key}: " if several else ""
        seeds = len({model.seed for model in models})
        yield (
            f"{of}`{method}`, configuration of trial {trial_id}, {seeds} new seeds (`{folder}`): "
            f"{'; '.join(parts) or 'nothing was forgotten that could come back'}."
        )
