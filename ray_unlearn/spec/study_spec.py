"""StudySpec: everything that decides a study's results and, separately, how it is operated."""

import math
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import MOST_ROWS
from ray_unlearn.spec.data_spec import EXAMPLES, DataSpec
from ray_unlearn.spec.evaluation_spec import EvaluationSpec, check_evaluation
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.listed_points import check_points
from ray_unlearn.spec.method_registry import PUBLISHED, method_named
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.objective_spec import ObjectiveSpec
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.search_space import Fixed, IntRange, SearchSpace
from ray_unlearn.spec.search_spec import SearchSpec
from ray_unlearn.spec.strict import Strict, digest
from ray_unlearn.spec.trial_config import TrialConfig

STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class StudySpec(Strict):
    """A study file, resolved: all trials of one model on one domain."""

    name: str = Field(pattern=STUDY_NAME)
    description: str = ""
    model: ModelSpec
    data: DataSpec
    methods: tuple[str, ...] = Field(PUBLISHED, min_length=1)
    spaces: dict[str, SearchSpace]
    full_spaces: dict[str, SearchSpace] | None = Field(
        None, description="spaces before they were narrowed (`--space-from`), by method"
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
                "operations.parallel: `shard` is for whole models; use `replicate` with "
                "`model.lora`"
            )
        self._check_what_methods_need()
        if self.operations.head == "liger" and self.operations.gpus_per_worker == 0:
            raise ValueError(
                "operations.head: the kernels of `liger` need GPUs; use `fused`, or set "
                "`gpus_per_worker`"
            )
        self._check_strength()
        self._check_surfaces()
        check_evaluation(self.evaluation, self.data, self.model)
        if self.objective.pareto and self.search.sampler in ("gp",):
            raise ValueError(
                "search.sampler: `gp` has one objective here; use `nsga2`, `tpe`, `qmc` or "
                "`random` with `pareto`"
            )
        if self.search.sampler == "nsga2" and not self.objective.pareto:
            raise ValueError(
                "search.sampler: `nsga2` is for two objectives; set `objective.pareto: true` or "
                "use `tpe`"
            )
        if self.objective.pareto and self.search.scheduler.type != "none":
            raise ValueError(
                "search.scheduler: early stopping needs one objective; use `type: none` with "
                "`pareto`"
            )
        return self

    def _check_what_methods_need(self) -> None:
        for method in self.methods:
            needs = method_named(method)
            if needs.other_answers and not self.data.has_answers("forget"):
                raise ValueError(
                    f"methods: {method} teaches other answers to the prompts of the forget set, "
                    "which has none; name the fields `prompt` and `answer`, or `messages`, of "
                    "`data.splits.forget`, or take the method out"
                )
            if "mismatched" in needs.other_answers and not self.data.has_answers("retain"):
                raise ValueError(
                    f"methods: {method} teaches answers of the retain set to the prompts of the "
                    "forget set; name the fields `prompt` and `answer`, or `messages`, of "
                    "`data.splits.retain` (or of `data.pool`), or take the method out"
                )
            if needs.adapters and self.model.lora is None:
                raise ValueError(
                    f"methods: {method} trains adapters alone; set `model.lora: {{rank: 16}}`, or "
                    "take it out"
                )

    def _check_strength(self) -> None:
        if self.evaluation.strength == "trained":
            return
        if self.search.scheduler.type == "past_best":
            raise ValueError(
                "search.scheduler: `past_best` stops a trial whose weights as trained are past "
                "their best row; at another strength they may not be: use another type, or "
                "`evaluation.strength: trained`"
            )
        if self.evaluation.strength == "target" and self.search.scheduler.type != "none":
            raise ValueError(
                f"search.scheduler: `{self.search.scheduler.type}` compares trials as trained, and "
                "a trial that it stops may have no row that counts: use `type: none`, or "
                "`evaluation.strength: both`"
            )
        if self.evaluation.strength == "target" and self.objective.score_rule == "stop_rule":
            raise ValueError(
                "evaluation.strength: `stop_rule` scores weights as trained; use `both`, or "
                "`objective.score_rule: best_row`"
            )

    def _check_surfaces(self) -> None:
        """Surfaces know what the weighted score of a row as trained is made of, and no other."""
        forecasts = self.search.scheduler.type == "forecast"
        users = [
            (self.search.sampler == "surface", "search.sampler: `surface`", "`tpe` or `gp`"),
            (forecasts, "search.scheduler: `forecast`", "`median` or `none`"),
        ]
        if self.evaluation.screen is not None:
            self._check_screen()
        for used, where, others in users:
            lacking = self._without_components() if used else None
            if lacking is not None:
                raise ValueError(
                    f"{where} rests on what the weighted score is made of, and {lacking}; use "
                    f"{others}"
                )
        for method in self.methods if forecasts else ():
            if not self.spaces[method].free_steps:
                raise ValueError(
                    f"search.scheduler: `forecast` looks at the rows to come as configurations, "
                    f"which those of {method} are not: set `steps: {{..., free: true}}`, or use "
                    "`asha`"
                )

    def _check_screen(self) -> None:
        """A part of the documents tells the weighted score of a row, and no other."""
        objective = self.objective
        named = next((way for way in ("pareto", "subject_to") if getattr(objective, way)), None)
        if objective.aim is not None:
            named = objective.aim[0]
        if named is not None:
            raise ValueError(
                "evaluation.screen: a part of the documents tells the weighted score alone, and "
                f"`objective.{named}` asks for more; take one of the two out"
            )

    def _without_components(self) -> str | None:
        """Why the components of its rows do not make a study's score; None: they do."""
        if self.objective.pareto:
            return "`objective.pareto` has two objectives"
        if self.objective.aim is not None:
            return f"`objective.{self.objective.aim[0]}` scores one metric instead"
        if self.objective.subject_to:
            return "`objective.subject_to` rules rows out that it would choose"
        if self.objective.score_rule != "best_row":
            return f"`objective.score_rule: {self.objective.score_rule}` takes another row"
        if self.evaluation.strength != "trained":
            return f"`evaluation.strength: {self.evaluation.strength}` scores at other strengths"
        return None

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
                f"search.scheduler.grace_updates: must lie below the most steps of {method} "
                f"({most}), got {self.search.scheduler.grace_updates}"
            )
        # The last step is always evaluated.
        rows = math.ceil(most / self.evaluation.every) if self.evaluation.every else 0
        if rows > MOST_ROWS:
            raise ValueError(
                f"evaluation.every: {most:,} steps of {method} would be evaluated {rows:,} times, "
                f"at most {MOST_ROWS:,} are possible; raise it"
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
                "`full_spaces` and `search.full_space_share` need each other; `ray-unlearn run "
                "STUDY --space-from` sets both"
            )
        for method, full in (self.full_spaces or {}).items():
            narrow = self.spaces.get(method)
            if method not in self.methods or narrow is None or full.method != method:
                raise ValueError(f"full_spaces: {method!r} is no method of this study; remove it")
            self._check_space(method, full)
            if (full.free_steps, full.fewest_steps) != (narrow.free_steps, narrow.fewest_steps):
                raise ValueError(
                    f"full_spaces.{method}.steps: `free`, and with it `low`, must be as in "
                    "`spaces`: they say which rows count"
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
        """Everything in the spec that decides results, as plain values.

        It leaves out `description`, `operations`, and local paths of model and data, because a
        study may move to another machine. The contents of those paths have digests of their own.
        """
        content = self.model_dump(mode="json", exclude={"description", "operations"})
        for field in ("source", "exact_retrain"):
            if is_local(content["model"][field]):
                content["model"][field] = "a local folder"
        again = content["model"]["exact_retrain_seeds"]
        content["model"]["exact_retrain_seeds"] = [
            "a local folder" if is_local(source) else source for source in again
        ]
        if self.evaluation.tasks:
            content["evaluation"]["tasks"] = [task.decisive() for task in self.evaluation.tasks]
        if self.evaluation.strength == "trained":
            del content["evaluation"]["strength"]  # studies of before it was a choice
        sets = content["evaluation"].get("sets", {})
        examples = (one[EXAMPLES] for one in sets.values() if EXAMPLES in one)
        data = content["data"]
        pool = [data["pool"]] if "pool" in data else []
        for split in (*data["splits"].values(), *pool, *sets.values(), *examples):
            if split["path"] is not None:
                split["path"] = "a local path"
            _without_none(split, "prompt", "answer", "messages")
        _without_none(data, "chat_template", "separator")
        if self.data.blank_rows == "refuse":
            del data["blank_rows"]
        return content

    def results_digest(self) -> str:
        """Digest of `decisive()`."""
        return digest(self.decisive())

    def trial_config(
        self, hyperparameters: Hyperparameters, method: str, seed: int, context: str
    ) -> TrialConfig:
        """The frozen trial for one suggestion of the search."""
        return TrialConfig(
            **hyperparameters.model_dump(),
            method=method,
            seed=seed,
            evaluate_at=self.evaluation.updates(hyperparameters.steps),
            context=context,
        )


def _without_none(content: dict[str, Any], *names: str) -> None:
    """Take out what is not given: studies of before there was a choice had no such keys."""
    for name in names:
        if content[name] is None:
            del content[name]


def public_name(source: str) -> str:
    """A model's name in tables and reports; for a local path, its last part."""
    return Path(source).name if source.startswith(("/", ".", "~")) else source


def is_local(source: str | None) -> bool:
    """True for a path on this machine, false for a hub id or `demo:` source."""
    return source is not None and source.startswith((".", "/"))


def _whole(parameter: Any) -> int:
    if isinstance(parameter, Fixed):
        return int(parameter.value)
    return int(max(parameter.choices))
