"""Chosen models on tasks of lm-evaluation-harness, as `ray-unlearn evaluate` stored them."""

from collections.abc import Sequence

from ray_unlearn.analysis.numerals import plain
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.page import Block, Heading, Paragraph, Section, Table
from ray_unlearn.spec.task_results import TaskModel, TaskResults, TaskScore

TITLE = "Tasks of lm-evaluation-harness"
READING = (
    "Chosen models on tasks, measured by `ray-unlearn evaluate` after the studies (`lm_eval.json` "
    "beside the ledger), next to the vanilla and the exactly retrained model. No trial was chosen "
    "by them, and no claim of this page rests on them. \u00b1 is the standard error over a task's "
    "examples; models answer the same ones, so a difference is usually more certain than that."
)
MODELS: tuple[tuple[TaskModel, str], ...] = (
    ("this", "unlearned"),
    ("vanilla", "vanilla"),
    ("exact_retrain", "retrained"),
)


def task_section(studies: Sequence[StudyResults]) -> tuple[Section, ...]:
    """A table for each evaluated model; none where nothing was evaluated."""
    tables: list[Block] = [
        _table(one, study.key if len(studies) > 1 else "")
        for study in studies
        for one in study.task_results
    ]
    return (Section(TITLE, (Paragraph(READING), *tables), "tasks"),) if tables else ()


def _table(results: TaskResults, study: str) -> Table:
    headings = (
        Heading("task", numeric=False),
        Heading("metric", numeric=False),
        *(Heading(word) for name, word in MODELS if name in results.models),
        Heading("examples"),
    )
    lines = tuple(
        (
            f"`{score.task}`",
            _metric(score),
            *(_cell(score, name) for name, _ in MODELS if name in results.models),
            "" if score.examples is None else f"{score.examples:,}",
        )
        for score in results.scores
    )
    return Table(_caption(results, study), headings, lines)


def _caption(results: TaskResults, study: str) -> str:
    at = "" if results.strength == 1 else f" at strength {plain(results.strength)}"
    how = [
        *([f"{results.num_fewshot} examples before each question"] if results.num_fewshot else []),
        *([f"the first {results.limit:,} examples only"] if results.limit else []),
        *(["prompts in the model's chat template"] if results.chat_template else []),
        f"lm-eval {results.lm_eval}",
    ]
    return (
        f"{study + ': ' if study else ''}`{results.method}`, trial {results.trial}, update "
        f"{results.update}{at}; {', '.join(how)}."
    )


def _metric(score: TaskScore) -> str:
    if score.higher_is_better is None:
        return f"`{score.name}`"
    return f"`{score.name}`, {'higher' if score.higher_is_better else 'lower'} is better"


def _cell(score: TaskScore, model: TaskModel) -> str:
    value, error = score.values[model], score.standard_errors[model]
    if value is None:
        return "none"
    return plain(value) + ("" if error is None else f" \u00b1 {plain(error)}")
