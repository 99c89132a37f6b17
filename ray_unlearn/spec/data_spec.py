"""DataSpec: the document sets of one domain and how they become token sequences."""

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ray_unlearn.spec.bounds import (
    MOST_DOCUMENTS,
    MOST_SEQUENCES,
)
from ray_unlearn.spec.strict import Strict

Split = Literal[
    "forget", "approximate", "retain", "retain_heldout", "general_retain", "general_evaluation"
]
SPLITS: tuple[str, ...] = get_args(Split)


class SplitSource(Strict):
    """Source of one split: a hub data set, or a local JSONL, Parquet or text file or folder."""

    hub: str | None = Field(None, description="data set id on the Hugging Face hub")
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    path: str | None = Field(None, description="file or folder, relative to the study file")
    text: str = Field("text", description="field that holds the text (hub, JSONL, Parquet)")
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


class DataSpec(Strict):
    """The document sets of one domain and how they become token sequences."""

    source: str | None = Field(
        None, pattern=r"^demo:[a-z_]+$", description="`demo:<domain>`, the bundled text"
    )
    domain: str = Field("", description="name shown in tables and reports; the demo brings its own")
    splits: dict[Split, SplitSource] = Field(default_factory=dict)
    sequence_length: int = Field(128, ge=2, le=MOST_SEQUENCES, description="tokens per sequence")
    layout: Literal["pad", "pack"] = Field(
        "pad",
        description="pad: a document fills whole sequences; pack: documents share sequences, "
        "attention stays inside each",
    )
    max_sequences_per_document: int | None = Field(
        None, ge=1, le=MOST_SEQUENCES, description="longer documents are cut"
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

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source is None) == (not self.splits):
            raise ValueError("give exactly one of `source: demo:<domain>` and `splits`")
        if self.splits:
            missing = [
                name for name in SPLITS if name not in self.splits and name != "retain_heldout"
            ]
            if missing:
                raise ValueError(f"`splits` lacks {', '.join(missing)}")
            if not self.domain:
                raise ValueError(
                    "`domain` is required with `splits`: it names the data in tables and reports"
                )
        return self
