"""What the studies measured of what an evaluation of unlearning should, and what they did not.

The questions are those of Liu et al., "Rethinking machine unlearning for large language models"
(Nature Machine Intelligence 7, 2025, arXiv 2402.08787, sections on evaluation): effectiveness with
hard in-scope examples and against retraining, membership, relearning, utility near and far,
efficiency, scope.
"""

from collections.abc import Sequence

from ray_unlearn.analysis.numerals import counted
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Heading, Paragraph, Section, Table

TITLE = "What was measured, and what was not"
READING = (
    "What an evaluation of unlearning should ask (Liu et al. 2025, arXiv 2402.08787), and what "
    "these studies answer. What is not measured may be bad, and no number on this page would show "
    "it."
)
YES, PARTLY, NO = "yes", "partly", "no"
NAMES = ("relearn", "quantise")


def checklist_section(studies: Sequence[StudyResults]) -> Section:
    """One line for each question: whether it is answered, by what, and what would answer it."""
    headings = (
        Heading("question", numeric=False),
        Heading("measured", numeric=False),
        Heading("by what, or what would measure it", numeric=False, wide=True),
    )
    lines = (
        ("forgetting, against approximate retraining", YES, _approximate(studies)),
        ("forgetting, against exact retraining", *_exact(studies)),
        (
            "hard in-scope examples (paraphrases, translations, jailbreak prefixes)",
            *_in_scope(studies),
        ),
        ("what the model says when it is asked", *_answers(studies)),
        ("membership inference", *_membership(studies)),
        ("relearning, and rounding of the weights", *_relearning(studies)),
        (
            "utility near the forget set",
            YES,
            "loss on held-out documents of the same domain that were to be kept"
            + _beside(_watched(studies, "near")),
        ),
        ("utility far from it", *_far(studies)),
        ("efficiency", *_efficiency(studies)),
        ("scope", PARTLY, _scope(studies)),
    )
    table = Table("What the trials of this page say, question by question.", headings, lines)
    return Section(TITLE, (Paragraph(READING), table), "checklist")


def _approximate(studies: Sequence[StudyResults]) -> str:
    domains = len({study.domain for study in studies})
    return (
        "forget gap: loss on the forget set against the vanilla model's on unseen documents of "
        f"{'the same domain' if domains == 1 else 'the same domains'}"
    )


def _share(studies: Sequence[StudyResults], known: Sequence[StudyResults]) -> str:
    if len(known) == len(studies):
        return YES
    return PARTLY if known else NO


def _exact(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = [study for study in studies if study.baseline("exact_retrain") is not None]
    if not known:
        return NO, (
            "a model trained without the forget set, under `model.exact_retrain`; without it the "
            "approximate target is not checked"
        )
    others = "" if len(known) == len(studies) else f" in {len(known)} of {len(studies)} studies"
    return _share(studies, known), f"distance to a model that was trained without it{others}"


def _watched(studies: Sequence[StudyResults], role: str) -> dict[str, list[str]]:
    """Names of the watched sets of a role, by the study that has some."""
    found = {
        study.key: [name for name, one in study.spec.evaluation.sets.items() if one.role == role]
        for study in studies
        if study.spec is not None
    }
    return {key: names for key, names in found.items() if names}


def _named(sets: dict[str, list[str]]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(n for own in sets.values() for n in own))


def _beside(sets: dict[str, list[str]]) -> str:
    return f", and of {_named(sets)}" if sets else ""


def _in_scope(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known, asked = _watched(studies, "in_scope"), _attacked_by(studies, "prompts")
    attacked = "the prefixes and paraphrases under Attacks, on the models named there"
    if not known:
        return (
            (PARTLY, attacked)
            if asked
            else (
                NO,
                (
                    "name such sets under `evaluation.sets` with `role: in_scope`, or ask a chosen "
                    "model: `ray-unlearn attack` with `--prefix` or `--paraphrases`"
                ),
            )
        )
    part = YES if len(known) == len(studies) else PARTLY
    return part, f"loss on {_named(known)}, in each row{'; ' + attacked if asked else ''}"


def _far(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = _watched(studies, "far")
    part = YES if len(known) == len(studies) else PARTLY
    other = _beside(known) or "; no other skill"
    return part, f"loss on documents of other kinds{other}; {_tasks(studies)}"


def _answers(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = {
        study.key: sorted({name for one in asked for name in one.sets})
        for study in studies
        if study.spec is not None and (asked := study.spec.evaluation.generate)
    }
    if not known:
        return NO, "nothing is generated: name sets under `evaluation.generate`"
    part = YES if len(known) == len(studies) else PARTLY
    return part, f"greedy answers to {_named(known)} against the true ones, word by word"


def _membership(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = [study for study in studies if _measured(study, "mia_loss_auc_reporting")]
    return _share(studies, known), (
        "AUC of loss, zlib, Min-K% and Min-K%++ attacks on documents; no attack that trains models "
        "of its own"
    )


def _attacked_by(studies: Sequence[StudyResults], attack: str) -> list[StudyResults]:
    return [study for study in studies if any(model.of(attack) for model in study.attacks)]


def _relearning(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = [_attacked_by(studies, attack) for attack in NAMES]
    if not any(known):
        return NO, "`ray-unlearn attack` relearns and rounds a chosen model"
    if not all(known):
        done, missing = NAMES if known[0] else NAMES[::-1]
        return PARTLY, (
            f"{done}, under Attacks, on the models named there; `ray-unlearn attack --attacks "
            f"{missing}` measures the rest"
        )
    both = [study for study in studies if all(_attacked_by([study], one) for one in NAMES)]
    where = "under Attacks, on the models named there"
    if any(study.baseline("exact_retrain") is None for study in known[0]):
        return PARTLY, f"{where}; without an exactly retrained model there is no fair reference"
    return _share(studies, both), f"{where}, beside the exactly retrained model"


def _efficiency(studies: Sequence[StudyResults]) -> tuple[str, str]:
    known = [study for study in studies if _measured(study, "efficiency_ratio")]
    if known:
        text = "FLOPs against those of retraining, seconds and memory of each evaluation"
        return _share(studies, known), text
    text = "FLOPs, seconds and memory of each evaluation; the cost of retraining is not known"
    return PARTLY, text + ": give `model.pretraining_tokens`"


def _tasks(studies: Sequence[StudyResults]) -> str:
    measured = [one for study in studies for one in study.task_results]
    tasks = {score.task for one in measured for score in one.scores}
    in_rows = [task.name for study in studies if study.spec for task in study.spec.evaluation.tasks]
    said = []
    if in_rows:
        said.append(f"{', '.join(dict.fromkeys(in_rows))} of lm-evaluation-harness, in rows")
    if tasks:
        models = len({one.question[:3] for one in measured})
        said.append(
            f"{counted(len(tasks), 'task')} of lm-evaluation-harness, on "
            f"{counted(models, 'chosen model')} alone"
        )
    none = "no benchmark: `ray-unlearn evaluate` runs tasks of lm-evaluation-harness"
    return "; ".join(said) or none


def _measured(study: StudyResults, column: str) -> bool:
    return column in study.rows and bool(study.rows[column].notna().any())


def _scope(studies: Sequence[StudyResults]) -> str:
    models = {(study.domain, study.model) for study in studies}
    seeds = {seed for study in studies for seed in study.seeds}
    domains = counted(len({study.domain for study in studies}), "domain")
    return (
        f"{domains}, {counted(len(models), 'trained model')}, "
        f"{counted(len(seeds), 'unlearning seed')}; other requests, and one after another, are not "
        "tried"
    )
