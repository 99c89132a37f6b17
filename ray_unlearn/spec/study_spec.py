"""StudySpec: everything that decides a study's results, and, apart, how it is operated."""

import math
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ray_unlearn.spec.bounds import (
    LARGEST_FACTOR,
    MOST_DOCUMENTS,
    MOST_EVALUATIONS,
    MOST_SEQUENCES,
    MOST_TRIALS,
    MOST_UPDATES,
    Seed,
    Weight,
)
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import HYPERPARAMETERS, Hyperparameters
from ray_unlearn.spec.listed_points import check_points
from ray_unlearn.spec.method_registry import BUILT_IN, method_named
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.search_space import Fixed, IntRange, Scalar, SearchSpace, load_search_space
from ray_unlearn.spec.strict import Strict, digest, read_yaml, validated
from ray_unlearn.spec.trial_config import TrialConfig

STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Split = Literal[
    "forget", "approximate", "retain", "retain_heldout", "general_retain", "general_evaluation"
]
SPLITS: tuple[str, ...] = get_args(Split)
ScoreRuleName = Literal["best_row", "stop_rule"]
Rounding = Literal["exact", "stochastic", "nearest"]
Points = dict[str, tuple[dict[str, Scalar], ...]]
"""By method, configurations given one by one: values of the sampled parameters whose conditions
hold."""


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2022, arXiv 2106.09685) instead of the whole model: W + alpha /
    rank * B A is trained in B and A. The model without its adapters is P_0: no second copy is
    needed."""

    rank: int = Field(16, ge=1, le=MOST_SEQUENCES)
    alpha: int = Field(32, ge=1, le=MOST_SEQUENCES)
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the adapted layers (`q_proj` ...); all-linear: all but the output embedding",
    )


class ModelSpec(Strict):
    """The vanilla model P_0. `source` is a hub id, a local folder, or `demo:<domain>`."""

    source: str = Field(min_length=1)
    revision: str | None = Field(
        None, description="hub revision; pin a commit for a study others should repeat"
    )
    gguf_file: str | None = Field(
        None, description="file inside `source` to load through transformers' GGUF reader"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights, policy and reference alike"
    )
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="compute in this dtype while the weights stay float32; policy and reference alike",
    )
    rounding: Rounding = Field(
        "stochastic",
        description="of bfloat16 weights after an update. stochastic: right on average, so that even a few small steps show; "
        "exact: what rounding drops is kept beside (2 bytes a weight) and shows once it adds up; nearest: small steps are lost",
    )
    lora: LoraSpec | None = Field(
        None, description="train low-rank adapters (PEFT) instead of the whole model"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    exact_retrain: str | None = Field(
        None, description="model retrained without the forget set; `demo:` brings its own"
    )
    exact_retrain_seeds: tuple[str, ...] = Field(
        (),
        description="like `exact_retrain`, trained from other seeds (`demo:<domain>@<seed>` for the demo): three retrained "
        "models in all say how much a score means, and set the tolerance of guidelines",
    )
    pretraining_tokens: float | None = Field(
        None,
        gt=0,
        le=LARGEST_FACTOR,
        description="tokens P_0 was trained on: retraining then costs 6 x parameters x tokens FLOPs",
    )

    @model_validator(mode="after")
    def _one_precision(self) -> Self:
        if self.autocast is not None and self.dtype != "float32":
            raise ValueError(
                f"`autocast: {self.autocast}` is for float32 weights, got `dtype: {self.dtype}`; remove one of the two"
            )
        return self


class SplitSource(Strict):
    """Where one split's documents come from: a hub data set, or a local JSONL, Parquet or text file
    or folder."""

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
                "`config`, `split` and `revision` belong to a `hub` source; remove them beside `path`"
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
        description="pad: a document fills whole sequences; pack: documents share sequences, attention stays apart",
    )
    max_sequences_per_document: int | None = Field(
        None, ge=1, le=MOST_SEQUENCES, description="longer documents are cut"
    )
    heldout_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of retain documents held out for utility where no `retain_heldout` is given",
    )

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


class ObjectiveSpec(Strict):
    """score = w_forget * forget gap + mean over sets of w_set * utility loss (METRICS in
    `store.schema`)."""

    forget_gap: Weight = Field(1.0, description="weight of |log ppl(U) - log ppl_0(A)|")
    retain: Weight = Field(1.0, description="weight of the utility loss on held-out retain text")
    general: Weight = Field(1.0, description="weight of the utility loss on general text")
    pareto: bool = Field(
        False, description="two objectives, forget gap and utility loss, instead of their sum"
    )
    score_rule: ScoreRuleName = Field(
        "best_row",
        description="the evaluation that scores a trial. best_row: the best one on the selection half; "
        "stop_rule: the first at which the forget set is as surprising as the approximate set, else the last",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.forget_gap == 0 or self.retain + self.general == 0:
            raise ValueError(
                "`forget_gap` and one of `retain`, `general` must be above 0: otherwise doing nothing wins"
            )
        return self


class EvaluationSpec(Strict):
    """When a trial is evaluated: every N updates, at given updates, or `count` points; always at
    its last update."""

    every: int | None = Field(None, ge=1, le=MOST_UPDATES)
    at: tuple[int, ...] | None = Field(None, max_length=MOST_EVALUATIONS)
    count: int | None = Field(
        None, ge=1, le=MOST_EVALUATIONS, description="this many points, evenly on a log scale"
    )
    batch_size: int = Field(
        16, ge=1, le=MOST_SEQUENCES, description="sequences per forward pass and worker"
    )

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

    def updates(self, steps: int) -> tuple[int, ...]:
        """The evaluated updates of a trial of `steps` updates, rising, the last one always among
        them."""
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


class SchedulerSpec(Strict):
    """Early stopping: none, ASHA (Li et al. 2020) or the median rule (Golovin et al. 2017), per
    method.

    `past_best` stops a trial only where, with free steps, it has passed its best row: no trial is
    judged by another, so the trials stay a random sample of the space. ASHA and the median rule
    include it.
    """

    type: Literal["none", "past_best", "asha", "median"] = "none"
    reduction_factor: int = Field(
        3, ge=2, le=MOST_TRIALS, description="ASHA keeps the best 1/reduction_factor at each rung"
    )
    grace_updates: int = Field(
        1, ge=1, le=MOST_UPDATES, description="no trial is stopped before this update"
    )


class SearchSpec(Strict):
    """How many trials and who chooses them."""

    trials_per_method: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="required unless the sampler is grid or listed"
    )
    sampler: Literal["tpe", "qmc", "random", "grid", "nsga2", "gp", "listed"] = "tpe"
    quasi_random_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of each method's trials drawn quasi-randomly (QMC), the first ones",
    )
    scheduler: SchedulerSpec = SchedulerSpec()
    seed: Seed = Field(0, description="of the samplers")
    trial_seeds: tuple[Seed, ...] = Field(
        (0,),
        min_length=1,
        max_length=MOST_TRIALS,
        description="data order and labels; trials take them in turn",
    )
    full_space_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the trials of a narrowed method, evenly spread, drawn from `full_spaces`",
    )
    warm_start: Points = Field(
        default_factory=dict, description="by method, the points of its first trials"
    )
    points: Points = Field(
        default_factory=dict,
        description="sampler `listed`: by method, all its points; each runs once per trial seed",
    )

    @model_validator(mode="after")
    def _number_of_trials(self) -> Self:
        whole = self.sampler in ("grid", "listed")
        if not whole and self.trials_per_method is None:
            raise ValueError("`trials_per_method` is required unless `sampler: grid` or `listed`")
        if whole and self.trials_per_method is not None:
            raise ValueError(
                f"`sampler: {self.sampler}` runs all its points; remove `trials_per_method`"
            )
        if whole and (self.full_space_share or self.warm_start):
            raise ValueError(
                f"`sampler: {self.sampler}` runs all its points; remove `full_space_share` and `warm_start`"
            )
        if (self.sampler == "listed") != bool(self.points):
            raise ValueError("`points` and `sampler: listed` need each other; give both or neither")
        if self.sampler == "listed" and len(set(self.trial_seeds)) < len(self.trial_seeds):
            raise ValueError(
                "trial_seeds: a seed is named twice; keep one, or `sampler: listed` runs a trial twice"
            )
        return self

    def full_space_trials(self, method: str, trials: int) -> int:
        """How many of a narrowed method's first `trials` trials are drawn from its full space.

        After the warm start every 1/`full_space_share`-th trial is: a function of the index alone,
        so that a study that is resumed or extended keeps the places it had.
        """
        after = max(0, trials - len(self.warm_start.get(method, ())))
        return math.floor(after * self.full_space_share + 1e-9)


class StudySpec(Strict):
    """A study file, resolved: all trials of one model on one domain."""

    name: str = Field(pattern=STUDY_NAME)
    description: str = ""
    model: ModelSpec
    data: DataSpec
    methods: tuple[str, ...] = Field(BUILT_IN, min_length=1)
    spaces: dict[str, SearchSpace]
    full_spaces: dict[str, SearchSpace] | None = Field(
        None, description="of methods whose space was narrowed (`--space-from`): what it was before"
    )
    search: SearchSpec
    objective: ObjectiveSpec = ObjectiveSpec()
    evaluation: EvaluationSpec
    operations: Operations = Operations()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods: a method is named twice; keep one")
        for method in self.methods:
            space = self.spaces.get(method)
            if space is None or space.method != method:
                raise ValueError(f"spaces: no search space for method {method!r}")
            self._check_space(method, space)
        self._check_full_spaces()
        self._check_points()
        if self.operations.parallel == "shard" and self.model.lora is not None:
            raise ValueError(
                "operations.parallel: `shard` is for whole models; use `replicate` with `model.lora`"
            )
        if self.operations.head == "liger" and self.operations.gpus_per_worker == 0:
            raise ValueError(
                "operations.head: the kernels of `liger` need GPUs; use `fused`, or set `gpus_per_worker`"
            )
        if self.objective.pareto and self.search.sampler in ("gp",):
            raise ValueError(
                "search.sampler: `gp` has one objective here; use `nsga2`, `tpe`, `qmc` or `random` with `pareto`"
            )
        if self.search.sampler == "nsga2" and not self.objective.pareto:
            raise ValueError(
                "search.sampler: `nsga2` is for two objectives; set `objective.pareto: true` or use `tpe`"
            )
        if self.objective.pareto and self.search.scheduler.type != "none":
            raise ValueError(
                "search.scheduler: early stopping needs one objective; use `type: none` with `pareto`"
            )
        return self

    def _check_space(self, method: str, space: SearchSpace) -> None:
        if self.search.sampler == "grid":
            bare = [n for n, p in space.sampled().items() if p.type != "choice" and not p.grid]
            if bare:
                raise ValueError(
                    f"spaces.{method}.{bare[0]}: the grid sampler needs `grid: [values]`"
                )
        steps = space.parameters["steps"]
        most = steps.high if isinstance(steps, IntRange) else _whole(steps)
        if self.search.scheduler.type != "none" and self.search.scheduler.grace_updates >= most:
            raise ValueError(
                f"search.scheduler.grace_updates: must lie below the most steps of {method} ({most}), "
                f"got {self.search.scheduler.grace_updates}"
            )
        if self.evaluation.every and most // self.evaluation.every > MOST_EVALUATIONS:
            raise ValueError(
                f"evaluation.every: {most:,} steps of {method} would be evaluated "
                f"{most // self.evaluation.every:,} times, at most {MOST_EVALUATIONS:,} are "
                "possible; raise it"
            )
        if space.free_steps and not [
            u for u in self.evaluation.updates(most) if u >= space.fewest_steps
        ]:
            raise ValueError(
                f"evaluation: no evaluated update of {method} lies in the range of its free steps"
            )

    def _check_full_spaces(self) -> None:
        if bool(self.full_spaces) != (self.search.full_space_share > 0):
            raise ValueError(
                "`full_spaces` and `search.full_space_share` need each other; `ray-unlearn run STUDY --space-from` sets both"
            )
        for method, full in (self.full_spaces or {}).items():
            narrow = self.spaces.get(method)
            if method not in self.methods or narrow is None or full.method != method:
                raise ValueError(f"full_spaces: {method!r} is no method of this study; remove it")
            self._check_space(method, full)
            if (full.free_steps, full.fewest_steps) != (narrow.free_steps, narrow.fewest_steps):
                raise ValueError(
                    f"full_spaces.{method}.steps: `free`, and with it `low`, must be as in `spaces`: they say which rows count"
                )

    def _check_points(self) -> None:
        for section in ("warm_start", "points"):
            for method, points in getattr(self.search, section).items():
                if method not in self.methods:
                    raise ValueError(
                        f"search.{section}: {method!r} is no method of this study; remove it"
                    )
                check_points(self.spaces[method], points, f"search.{section}.{method}")
        bare = [method for method in self.methods if not self.search.points.get(method)]
        if self.search.sampler == "listed" and bare:
            raise ValueError(
                f"search.points: none for {bare[0]}; list some, or take it from `methods`"
            )

    def decisive(self) -> dict[str, Any]:
        """All that decides results: the whole spec but `description`, `operations`, and *where*
        model and data lie, whose contents have digests of their own: a study may move to another
        machine."""
        content = self.model_dump(mode="json", exclude={"description", "operations"})
        for field in ("source", "exact_retrain"):
            if _is_local(content["model"][field]):
                content["model"][field] = "a local folder"
        again = content["model"]["exact_retrain_seeds"]
        content["model"]["exact_retrain_seeds"] = [
            "a local folder" if _is_local(source) else source for source in again
        ]
        for split in content["data"]["splits"].values():
            if split["path"] is not None:
                split["path"] = "a local path"
        return content

    def results_digest(self) -> str:
        """Digest of `decisive`."""
        return digest(self.decisive())

    def trial_config(
        self, hyperparameters: Hyperparameters, method: str, seed: int, context: str
    ) -> TrialConfig:
        """The frozen trial for one suggestion."""
        return TrialConfig(
            **hyperparameters.model_dump(),
            method=method,
            seed=seed,
            evaluate_at=self.evaluation.updates(hyperparameters.steps),
            context=context,
        )


def public_name(source: str) -> str:
    """A model as tables and reports name it: a hub id or `demo:` source as it is; of a local path
    only the last name."""
    return Path(source).name if source.startswith(("/", ".", "~")) else source


def _is_local(source: str | None) -> bool:
    return source is not None and source.startswith((".", "/"))


def _whole(parameter: Any) -> int:
    if isinstance(parameter, Fixed):
        return int(parameter.value)
    return int(max(parameter.choices))


def load_study(path: Path, operations: dict[str, Any] | None = None) -> StudySpec:
    """Read a study file, load its search spaces, and make relative paths absolute.

    In the file, `spaces` is a folder of search space files (default: `search_spaces` beside the
    study file, in the folder above it, or the one installed with the package), and
    `space_overrides` replaces parameters in all of them. A resolved study (as kept in a study
    directory) holds the spaces themselves.

    Args:
        path: the YAML file.
        operations: values that replace those of the `operations` section (from the command line).

    Raises:
        UserError: every problem found at the first level that has one, each with file, field, value
        and remedy.
    """
    content = read_yaml(path)
    overrides = content.pop("space_overrides", None)
    methods = content.get("methods", list(BUILT_IN))
    if not isinstance(methods, list) or not methods:
        raise UserError(f"{path}: methods: must be a list of method names, got {methods!r}")
    for name in methods:
        try:
            method_named(str(name))
        except UserError as error:
            raise UserError(f"{path}: methods: {error}") from None
    spaces = content.get("spaces")
    if isinstance(spaces, str) or spaces is None:
        if overrides is not None and not isinstance(overrides, dict):
            raise UserError(
                f"{path}: space_overrides: must be a mapping of hyperparameter to range"
            )
        long_form = {
            n: v if isinstance(v, dict) else {"type": "fixed", "value": v}
            for n, v in (overrides or {}).items()
        }
        folder = _spaces_folder(path, spaces)
        loaded = {name: load_search_space(folder / f"{name}.yaml", long_form) for name in methods}
        content["spaces"] = {name: space.model_dump(mode="json") for name, space in loaded.items()}
    elif overrides:
        raise UserError(
            f"{path}: space_overrides: only with `spaces` as a folder; edit the spaces themselves"
        )
    if operations:
        content["operations"] = (content.get("operations") or {}) | operations
    spec = validated(StudySpec, content, str(path))
    _check_overrides(path, overrides or {}, spec.methods)
    return _with_absolute_paths(spec, path.parent)


def _check_overrides(path: Path, overrides: dict[str, Any], methods: tuple[str, ...]) -> None:
    """Refuse an override that no method of the study uses: it would be ignored in silence."""
    used = {name for method in methods for name in method_named(method).hyperparameters}
    for name in overrides:
        if name in HYPERPARAMETERS and name not in used:
            raise UserError(
                f"{path}: space_overrides.{name}: no method of this study uses it "
                f"({', '.join(methods)}); remove it"
            )


def _spaces_folder(path: Path, given: str | None) -> Path:
    if given is not None:
        folder = path.parent / given
        if not folder.is_dir():
            raise UserError(f"{path}: spaces: no such folder: {folder}")
        return folder
    candidates = [
        path.parent / "search_spaces",
        path.parent.parent / "search_spaces",
        packaged_spaces(),
    ]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(
        f"{path}: spaces: no `search_spaces` folder found; name one with `spaces: <folder>`"
    )


def packaged_spaces() -> Path:
    """The search spaces that come with the package (in a checkout: those beside it)."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def _with_absolute_paths(spec: StudySpec, base: Path) -> StudySpec:
    splits = {
        name: source
        if source.path is None
        else source.model_copy(update={"path": str((base / source.path).resolve())})
        for name, source in spec.data.splits.items()
    }
    model_updates: dict[str, Any] = {
        field: str((base / value).resolve())
        for field in ("source", "exact_retrain")
        if (value := getattr(spec.model, field)) and (_is_local(value) or (base / value).is_dir())
    }
    model_updates["exact_retrain_seeds"] = tuple(
        str((base / value).resolve()) if _is_local(value) or (base / value).is_dir() else value
        for value in spec.model.exact_retrain_seeds
    )
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"splits": splits}),
            "model": spec.model.model_copy(update=model_updates),
        }
    )
