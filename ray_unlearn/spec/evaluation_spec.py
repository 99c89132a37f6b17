"""EvaluationSpec: when a trial is evaluated, on which sets, and by what beside their loss."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ray_unlearn.spec.bounds import (
    LONGEST_SEPARATOR,
    MOST_DOCUMENTS,
    MOST_ROWS,
    MOST_SEQUENCES,
    MOST_UPDATES,
)
from ray_unlearn.spec.data_spec import EXAMPLES, SPLITS, DataSpec, SplitSource, place_of
from ray_unlearn.spec.errors import nearest
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.row_tasks import RowTask
from ray_unlearn.spec.set_names import EVALUATED_SETS
from ray_unlearn.spec.strict import Strict

StrengthMode = Literal["trained", "target", "both"]
SetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
TAUGHT = ("alternative", "mismatched")
"""Token sets of answers that methods teach, beside the splits."""
RESERVED = frozenset((*SPLITS, *EVALUATED_SETS, *TAUGHT, "mia", "score", "model", "priv"))
"""Names that columns of ours begin with, or that data have."""
ASKED = frozenset(("sets", "generate", "model_utility", "priv_leak", "tasks", "screen"))
"""Keys that are left out of a resolved study where nothing is asked."""


class WatchedSet(SplitSource):
    """A set that is evaluated beside the four of every study, and trained on by no trial."""

    role: Literal["in_scope", "near", "far"] | None = Field(
        None,
        description="in_scope: to be forgotten in other words (paraphrases, translations, "
        "jailbreak prefixes); near: close to it and to be kept; far: another skill; null: not "
        "said",
    )

    examples: SplitSource | None = Field(
        None,
        description="questions with their answers that stand before each question of the set, all "
        "of them in their order (few-shot prompts, as MUSE asks); null: none",
    )

    @model_validator(mode="after")
    def _examples_are_answers(self) -> Self:
        if self.examples is None:
            return self
        if not (self.has_answers and self.examples.has_answers):
            where = "examples" if self.has_answers else "the set"
            raise ValueError(
                f"`examples` are questions and answers before others: name the fields `prompt` and "
                f"`answer`, or `messages`, of {where}"
            )
        if self.examples.other_answers:
            name = next(iter(self.examples.other_answers))
            raise ValueError(f"examples.{name}: is not read; remove it")
        return self

    @property
    def to_be_kept(self) -> bool:
        """Whether a model should still know it."""
        return self.role in ("near", "far")


class GenerateSpec(Strict):
    """Greedy answers to the prompts of some sets; of a text, to its first tokens."""

    sets: tuple[str, ...] = Field(min_length=1, description="of `evaluation.sets`, or of ours")
    max_new_tokens: int = Field(64, ge=1, le=MOST_SEQUENCES, description="tokens per answer")
    prompt_tokens: int = Field(
        200,
        ge=1,
        le=MOST_SEQUENCES,
        description="tokens of a text that are its prompt, at most half of it; what follows is the "
        "true answer, as long as the one that is asked for",
    )
    documents: int | None = Field(
        None, ge=1, le=MOST_DOCUMENTS, description="this many of each set, evenly; null: all"
    )
    stop: tuple[Annotated[str, Field(min_length=1, max_length=LONGEST_SEPARATOR)], ...] = Field(
        (), description="an answer ends where one of these begins"
    )
    at: Literal["last", "every"] = Field(
        "every", description="every row of a trial, or that of its last update"
    )


class EvaluationSpec(Strict):
    """When a trial is evaluated.

    Every N updates, at given updates, or at `count` points, and always at its last update.
    """

    every: int | None = Field(None, ge=1, le=MOST_UPDATES)
    at: tuple[int, ...] | None = Field(None, max_length=MOST_ROWS)
    count: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="this many points, evenly on a log scale"
    )
    batch_size: int = Field(
        16, ge=1, le=MOST_SEQUENCES, description="sequences per forward pass and worker"
    )
    strength: StrengthMode = Field(
        "trained",
        description="which models are rows. trained: the trained weights W_t; both: some trained "
        "states also at the strength a of W_0 + a (W_t - W_0), 0 < a <= 2, where the forget set is "
        "as surprising as the approximate set; target: as both, and only models that meet that "
        "target can score a trial",
    )

    screen: float | None = Field(
        None,
        ge=0.05,
        le=0.9,
        description="measure every row on the forget set and this share of the other documents "
        "first, and on all of them only where it may be the best of its method (docs/search.md); "
        "null: always on all",
    )

    sets: dict[SetName, WatchedSet] = Field(
        default_factory=dict,
        description="more sets to watch, by name: their metrics are columns of every row",
    )
    generate: tuple[GenerateSpec, ...] = Field(
        (),
        description="greedy answers to the prompts of some sets, compared with the true ones; one "
        "entry, or a list of them",
    )
    model_utility: tuple[str, ...] = Field(
        (),
        description="sets of TOFU's model utility: the harmonic mean of their probability, "
        "ROUGE-L recall and truth ratio",
    )
    priv_leak: bool = Field(
        False, description="MUSE's PrivLeak against the exactly retrained model, with Min-K% 40"
    )
    tasks: tuple[RowTask, ...] = Field(
        (),
        description="tasks of lm-evaluation-harness (extra `lm-eval`): their metrics are columns "
        "of every row; one entry, or a list of them",
    )

    @field_validator("generate", "tasks", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, dict) else value

    @field_validator("at")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or value[0] < 1 or list(value) != sorted(set(value))):
            raise ValueError("must be rising updates from 1 on")
        if value is not None and value[-1] > MOST_UPDATES:
            raise ValueError(f"no update is beyond {MOST_UPDATES:,}, got {value[-1]:,}")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if sum(rule is not None for rule in (self.every, self.at, self.count)) != 1:
            raise ValueError("give exactly one of `every`, `at` and `count`")
        return self

    @model_validator(mode="after")
    def _known_sets(self) -> Self:
        for name in self.sets:
            if name in RESERVED:
                raise ValueError(f"sets.{name}: this name has a meaning already; use another")
        asked = [name for entry in self.generate for name in entry.sets]
        for name in asked:
            if name not in self.evaluated:
                raise ValueError(f"generate.sets: {name!r} is none{nearest(name, self.evaluated)}")
        if len(set(asked)) != len(asked):
            raise ValueError("generate.sets: a set is named twice; keep one")
        return self

    @model_validator(mode="after")
    def _tasks_once(self) -> Self:
        columns = [column for task in self.tasks for column in task.columns]
        twice = [column for column in columns if columns.count(column) > 1]
        if twice:
            raise ValueError(
                f"tasks: two of them make a column {twice[0]!r}; name each task and metric once"
            )
        return self

    @model_validator(mode="after")
    def _screens_what_scores(self) -> Self:
        if self.screen is None:
            return self
        asked = [name for name in sorted(ASKED - {"screen"}) if getattr(self, name)]
        if asked:
            raise ValueError(
                f"screen: a row that is measured on a part has no `{asked[0]}`; take one of the "
                "two out"
            )
        return self

    @property
    def sources(self) -> dict[str, SplitSource]:
        """What its sets are read from, by place in a study file."""
        found: dict[str, SplitSource] = {}
        for name, one in self.sets.items():
            found[place_of(name)] = one
            if one.examples is not None:
                found[f"{place_of(name)}.{EXAMPLES}"] = one.examples
        return found

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The names of all sets that are evaluated."""
        return (*EVALUATED_SETS, *self.sets)

    @property
    def reads_tokenizer(self) -> bool:
        """Whether rows need the tokenizer beside the tokens."""
        return bool(self.generate or self.tasks)

    @property
    def bare(self) -> "EvaluationSpec":
        """The same without what only some studies ask for."""
        return type(self).model_validate(self.model_dump(exclude=set(ASKED)))

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies of before there was a choice had no such keys; nor have those that ask not."""
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if value or key not in ASKED}

    def updates(self, steps: int) -> tuple[int, ...]:
        """The evaluated updates of a trial of `steps` updates, rising, with the last one."""
        if self.every is not None:
            points = set(range(self.every, steps + 1, self.every))
        elif self.at is not None:
            points = {update for update in self.at if update <= steps}
        else:
            assert self.count is not None
            top = math.log(steps)
            points = {
                max(1, round(math.exp(top * (i + 1) / self.count))) for i in range(self.count)
            }
        return tuple(sorted(points | {steps}))


def check_evaluation(evaluation: EvaluationSpec, data: DataSpec, model: ModelSpec) -> None:
    """Check that a study has what its evaluation asks for.

    Raises:
        ValueError: it lacks a template, prompts and answers, perturbed answers, or an exactly
            retrained model.
    """
    _check_templates(evaluation, data)
    for split_name, split in data.splits.items():
        if split.perturbed is not None and split_name != "forget":
            raise ValueError(
                f"data.splits.{split_name}.perturbed: the truth ratio is of `forget` and of "
                "`evaluation.sets`; name the source there"
            )
    generated = {name for entry in evaluation.generate for name in entry.sets}
    for name in evaluation.model_utility:
        watched = evaluation.sets.get(name)
        if watched is None or watched.perturbed is None:
            raise ValueError(
                f"evaluation.model_utility: {name!r} must be one of `evaluation.sets`, with "
                "`perturbed`"
            )
        if name not in generated:
            raise ValueError(
                f"evaluation.model_utility: ROUGE-L of {name!r} is not measured; name it in "
                "`evaluation.generate.sets`"
            )
    if evaluation.priv_leak and not model.has_exact_retrain:
        raise ValueError(
            "evaluation.priv_leak: is a distance to an exactly retrained model; give "
            "`model.exact_retrain`, or leave it out"
        )


def _check_templates(evaluation: EvaluationSpec, data: DataSpec) -> None:
    template, separator = data.chat_template, data.separator
    given = "chat_template" if template is not None else "separator"
    sources = (*data.sources.values(), *evaluation.sources.values())
    asks = any(source.has_answers for source in sources)
    if not asks and (template is not None or separator is not None):
        raise ValueError(
            f"data: `{given}` is for prompts and answers, and no split has any; remove it, or name "
            "the fields `prompt` and `answer`, or `messages`, of a split"
        )
    bare = [place for place, source in evaluation.sources.items() if source.messages is not None]
    if bare and template is None:
        raise ValueError(
            f"{bare[0]}.messages: needs `data.chat_template`: `tokenizer`, or a Jinja template"
        )
