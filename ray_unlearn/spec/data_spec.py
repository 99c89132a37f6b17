"""DataSpec: the document sets of one domain and how they become token sequences."""

from typing import Any, Literal, Self, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ray_unlearn.spec.bounds import (
    LONGEST_SEPARATOR,
    LONGEST_TEMPLATE,
    MOST_DOCUMENTS,
    MOST_SEQUENCES,
)
from ray_unlearn.spec.strict import Strict

Split = Literal[
    "forget", "approximate", "retain", "retain_heldout", "general_retain", "general_evaluation"
]
SPLITS: tuple[str, ...] = get_args(Split)
COMPARED = ("paraphrased", "perturbed")
"""Kinds of answers that the truth ratio compares."""
OTHER_ANSWERS = ("alternative", *COMPARED)
"""Kinds of answers beside the true one; `alternative` ones are taught instead of it."""


Origin = Literal["pool", "bundled"]
"""Where documents of a split are dealt from that has no source: `data.pool`, or bundled text."""
IN_DISTRIBUTION = ("approximate", "retain", "retain_heldout")
"""Splits of text of the forget set's kind."""
DEALT = tuple(name for name in SPLITS if name != "forget")
"""Splits that can be dealt."""

EXAMPLES = "examples"
"""Field of watched sets: questions with answers before each of theirs."""


def place_of(name: str) -> str:
    """Where a study file names the source of a split or of a watched set."""
    return f"data.splits.{name}" if name.partition("/")[0] in SPLITS else f"evaluation.sets.{name}"


class SplitSource(Strict):
    """Source of one split: a hub data set, or a local JSONL, Parquet or text file or folder."""

    hub: str | None = Field(None, description="data set id on the Hugging Face hub")
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    path: str | None = Field(None, description="file or folder, relative to the study file")
    text: str = Field("text", description="field that holds the text (hub, JSONL, Parquet)")
    prompt: str | None = Field(
        None, description="field that holds the prompt, beside `answer`, instead of `text`"
    )
    answer: str | None = Field(
        None, description="field that holds the answer; loss and metrics count its tokens alone"
    )
    messages: str | None = Field(
        None,
        description="field that holds a list of {role, content}, instead of `text`; the last one "
        "is the answer, all before it the prompt",
    )
    alternative: str | None = Field(
        None,
        description="field of the forget set that holds another answer, or a list of them, for "
        "methods that teach one (`dpo`, `idk`); null: refusals (I don't know)",
    )
    paraphrased: str | None = Field(
        None,
        description="field that holds the answer in other words, for the truth ratio; null: the "
        "answer itself",
    )
    perturbed: str | None = Field(
        None, description="field that holds wrong answers, one or a list, for the truth ratio"
    )
    id: str | None = Field(
        None, description="field that identifies a document; default: its position"
    )
    pattern: str = Field(
        "**/*.txt", description="which files of a folder; one file is one document"
    )
    limit: int | None = Field(
        None, ge=1, le=MOST_DOCUMENTS, description="keep the first N documents"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of `hub` and `path`")
        if self.hub is None and (self.config or self.split or self.revision):
            raise ValueError(
                "`config`, `split` and `revision` belong to a `hub` source; "
                "remove them beside `path`"
            )
        if self.hub is not None and self.split is None:
            raise ValueError("a `hub` source needs `split`")
        return self

    @model_validator(mode="after")
    def _one_kind_of_document(self) -> Self:
        if (self.prompt is None) != (self.answer is None):
            given, lacking = ("prompt", "answer") if self.prompt else ("answer", "prompt")
            raise ValueError(f"`{given}` needs `{lacking}`: name both fields")
        if self.prompt is not None and self.messages is not None:
            raise ValueError("give `prompt` and `answer`, or `messages`; remove one of the two")
        if self.has_answers and self.text != "text":
            raise ValueError(f"`text: {self.text}` is not read beside an answer; remove it")
        if self.alternative is not None and not self.has_answers:
            raise ValueError(
                "`alternative` needs a prompt that it answers: name the fields `prompt` and "
                "`answer`, or `messages`, beside it"
            )
        if self.perturbed is not None and not self.has_answers:
            raise ValueError("`perturbed` is for prompts and answers; name their fields too")
        if self.paraphrased is not None and self.perturbed is None:
            raise ValueError("`paraphrased` is compared with `perturbed`; name that field too")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies of before there were other answers, or examples, had no such keys."""
        content: dict[str, Any] = handler(self)
        asked = (*OTHER_ANSWERS, EXAMPLES)
        absent = {name for name in asked if content.get(name) is None}
        return {key: value for key, value in content.items() if key not in absent}

    @property
    def has_answers(self) -> bool:
        """Whether its documents are answers with what was asked, not texts."""
        return self.prompt is not None or self.messages is not None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an entry that make a document, without its id and other answers."""
        if self.messages is not None:
            return (self.messages,)
        if self.prompt is not None and self.answer is not None:
            return (self.prompt, self.answer)
        return (self.text,)

    @property
    def other_answers(self) -> dict[str, str]:
        """Fields of other answers than the true one, by what they are (`OTHER_ANSWERS`)."""
        fields = {name: getattr(self, name) for name in OTHER_ANSWERS}
        return {name: field for name, field in fields.items() if field is not None}


class DataSpec(Strict):
    """The document sets of one domain and how they become token sequences."""

    source: str | None = Field(
        None, pattern=r"^demo:[a-z_]+$", description="`demo:<domain>`, the bundled text"
    )
    domain: str = Field("", description="name shown in tables and reports; the demo brings its own")
    splits: dict[Split, SplitSource] = Field(
        default_factory=dict, description="`forget`, and all others that are not to be dealt"
    )
    pool: SplitSource | None = Field(
        None,
        description="documents of the forget set's kind that the model was not trained on; dealt "
        "to `approximate`, `retain` and `retain_heldout`, those of them that `splits` leaves out",
    )
    dealt: dict[Split, Origin] = Field(
        default_factory=dict,
        description="where the splits are dealt from that `splits` leaves out: `pool`, or "
        "`bundled`, the text that comes with the package; default: those of the forget set's kind "
        "from the pool if there is one, all others bundled",
    )
    sequence_length: int = Field(128, ge=2, le=MOST_SEQUENCES, description="tokens per sequence")
    layout: Literal["pad", "pack"] = Field(
        "pad",
        description="pad: a document fills whole sequences; pack: documents share sequences, "
        "attention stays inside each",
    )
    max_sequences_per_document: int | None = Field(
        None, ge=1, le=MOST_SEQUENCES, description="longer documents are cut"
    )
    blank_rows: Literal["refuse", "skip"] = Field(
        "refuse",
        description="what becomes of rows without text or answer; skip: they are left out, counted "
        "and mentioned",
    )
    chat_template: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_TEMPLATE,
        description="how prompts and answers become text. tokenizer: by the chat template of the "
        "model's tokenizer; or a Jinja template; null: prompt, `separator` and answer",
    )
    separator: str | None = Field(
        None,
        max_length=LONGEST_SEPARATOR,
        description="text between prompt and answer where there is no `chat_template`; null: a "
        "line break",
    )
    heldout_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="fraction of retain documents held out for utility where no `retain_heldout` "
        "is given",
    )

    @field_validator("source", mode="before")
    @classmethod
    def _without_model_seed(cls, source: object) -> object:
        if isinstance(source, str) and source.startswith("demo:") and "#" in source:
            raise ValueError(
                "the documents are the same for every model seed: write "
                f"`{source.partition('#')[0]}` here, and the seed in `model.source` alone"
            )
        return source

    @model_validator(mode="before")
    @classmethod
    def _say_what_is_dealt(cls, content: object) -> object:
        """Write out where each split is dealt from, so that a resolved study says it."""
        if not isinstance(content, dict) or not isinstance(splits := content.get("splits"), dict):
            return content
        dealt = content.get("dealt") or {}
        if not splits or not isinstance(dealt, dict):
            return content
        missing = [name for name in DEALT if name not in splits and name not in dealt]
        if "retain" in splits and "retain_heldout" in missing:
            missing.remove("retain_heldout")  # held out from `retain`
        own = "bundled" if content.get("pool") is None else "pool"
        usual = {name: own if name in IN_DISTRIBUTION else "bundled" for name in missing}
        return content | {"dealt": dealt | usual}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source is None) == (not self.splits):
            raise ValueError("give exactly one of `source: demo:<domain>` and `splits`")
        self._check_dealt()
        if self.splits:
            if "forget" not in self.splits:
                raise ValueError("`splits` lacks forget: the documents to be forgotten")
            if not self.domain:
                raise ValueError(
                    "`domain` is required with `splits`: it names the data in tables and reports"
                )
        return self

    def _check_dealt(self) -> None:
        if self.source is not None and (self.dealt or self.pool is not None):
            raise ValueError("the demo brings all splits; remove `pool` and `dealt`")
        twice = [name for name in self.dealt if name in self.splits]
        if twice:
            raise ValueError(f"dealt.{twice[0]}: `splits` has a source for it; remove one of both")
        asked = [name for name, origin in self.dealt.items() if origin == "pool"]
        if asked and self.pool is None:
            raise ValueError(f"dealt.{asked[0]}: there is no `pool`; name its source beside it")
        if self.pool is not None and not asked:
            raise ValueError("`pool`: all splits have sources of their own; remove it")
        if self.pool is not None and self.pool.other_answers:
            raise ValueError(
                f"pool.{next(iter(self.pool.other_answers))}: only documents of `forget` have "
                "other answers; remove it"
            )

    @model_serializer(mode="wrap")
    def _without_dealing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies of before splits could be dealt had no such keys; nor have those that do not."""
        content: dict[str, Any] = handler(self)
        absent = {name for name in ("pool", "dealt") if not content.get(name)}
        return {key: value for key, value in content.items() if key not in absent}

    @property
    def sources(self) -> dict[str, SplitSource]:
        """All that is read, by its place in a study file."""
        splits = {place_of(name): source for name, source in self.splits.items()}
        return splits if self.pool is None else splits | {"data.pool": self.pool}

    def has_answers(self, name: Split) -> bool:
        """Whether the documents of a split are answers with what was asked, not texts."""
        source = self.pool if self.dealt.get(name) == "pool" else self.splits.get(name)
        return source is not None and source.has_answers

    @model_validator(mode="after")
    def _alternatives_are_of_the_forget_set(self) -> Self:
        for name, source in self.splits.items():
            if source.alternative is not None and name != "forget":
                raise ValueError(
                    f"splits.{name}.alternative: only documents of `forget` have other answers; "
                    "remove it"
                )
        return self

    @model_validator(mode="after")
    def _one_way_to_write_answers(self) -> Self:
        template, separator = self.chat_template, self.separator
        if template is not None and template != "tokenizer" and "{" not in template:
            raise ValueError(
                f"chat_template: {template!r} is no Jinja template; write `tokenizer`, or one with "
                "{{ ... }}"
            )
        if template is not None and separator is not None:
            raise ValueError("`separator` is not used with `chat_template`; remove one of the two")
        bare = [place for place, source in self.sources.items() if source.messages is not None]
        if bare and template is None:
            raise ValueError(
                f"{bare[0].removeprefix('data.')}.messages: needs `chat_template` beside `splits`: "
                "`tokenizer`, or a Jinja template"
            )
        return self
