"""`guidelines.json`: claims about hyperparameters with their evidence, as data.

`ray-unlearn report` writes it; people, `diff` and `run --space-from` (for the next study) read it.
Sentences are rendered from it, and nothing in it is written by hand. Every number is finite or
null.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import StrengthMode
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.spec.objective_spec import ScoreRuleName
from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.spec.strict import Strict, validated

GUIDELINES_VERSION = 2

Status = Literal["claimed", "likely", "leave_alone", "not_known"]
FORMER_STATUS = {"withheld": "not_known"}
"""Words of version 1, which knew two: `claimed` and `withheld`."""

ClaimKind = Literal["range", "rank", "interaction", "stop_rule", "method_choice", "budget", "avoid"]
FORMER_RANGES = ("point", "leave_default")
"""Kinds in older files, a single value and a start without a range; both are read as ranges."""
Grade = Literal["A", "B", "C", "scoped"]
Value = float | int | str | bool | None


class ScoreInfo(Strict):
    """What was minimised (or maximised), and how far from the best still counts as good."""

    name: str
    direction: Literal["minimize", "maximize"]
    unit: str = ""
    tolerance: float = Field(gt=0, description="tau: configurations within it of the best are good")
    tolerance_source: str = Field(description="where tau comes from, in words")
    score_rule: ScoreRuleName = Field(
        "stop_rule",
        description="the rule that chose the evaluation that scores a trial, as "
        "`objective.score_rule`; files "
        "without it were made by programs that knew the stopping rule alone",
    )
    strength: StrengthMode = Field(
        "trained", description="which models could score a trial, as `evaluation.strength`"
    )
    weights: ScoreWeights | None = Field(
        None,
        description="of the score's parts, as `objective`; null: not known, as in files of before "
        "it was recorded, or the score is not made of these parts",
    )
    objective: str | None = Field(
        None,
        description="what was minimised instead of the weighted sum, and the constraints, as in "
        "`objective` of a study file; null: the weighted sum without constraints, or a foreign "
        "table's score",
    )
    checkpoint_rule: str = Field(
        description="which evaluation of a trial its score is taken at, in words"
    )


class Scope(Strict):
    """The methods, models and domains that a claim holds for."""

    method: str | None = Field(None, description="null: all methods of the table, or none known")
    models: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class ClaimedRegion(Strict):
    """Where to search next, in the form of a search space file."""

    type: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None


class Heldout(Strict):
    """The claim's benefit on domains (or models) that it was not derived from."""

    groups: tuple[str, ...]
    better: int = Field(
        ge=0, description="held-out groups on which trials inside beat as many in the full space"
    )
    trials_inside: int = Field(ge=1, description="trials inside the claimed region ...")
    trials_outside: float | None = Field(
        None, description="... match this many in the full space (median over groups)"
    )
    regret: float | None = Field(
        None, description="score lost against the best known on the held-out group, mean"
    )
    regret_full_space: float | None = None
    regret_default: float | None = None


class LeftOut(Strict):
    """What the response surface predicts of trials left out of its fit."""

    trials: int = Field(ge=1, description="each left out once")
    held: int = Field(ge=0, description="trials inside their 90 % predictive intervals")
    explained: float = Field(
        le=1, description="share of the variance explained; negative: worse than the mean"
    )


class Evidence(Strict):
    """The data and the statistics behind a claim."""

    n_trials: int = Field(
        ge=0,
        description="trials that the claim rests on: of claims from the response surface (range, "
        "avoid, budget) all, adaptive ones too; of all others those drawn from the search space",
    )
    n_groups: int = Field(ge=0, description="domains, or trained models where there are more")
    n_models: int = Field(
        1,
        ge=0,
        description="trained models: the most that any one domain has, so a model of its own for "
        "each domain counts as one; older files do not say, and count as one",
    )
    n_seeds: int = Field(ge=0)
    sampler: str = Field("unknown", description="how the trials were drawn, in words")
    heldout: Heldout | None = None
    left_out: LeftOut | None = Field(
        None, description="of claims from the response surface; null in older files"
    )
    p_value: float | None = Field(None, ge=0, le=1)
    family_size: int | None = Field(
        None, ge=1, description="claims tested together, which the p-value allows for"
    )


class Reason(Strict):
    """Why a claim is withheld."""

    kind: Literal[
        "sampler",
        "trials",
        "seeds",
        "prediction",
        "importance",
        "heldout",
        "difference",
        "certainty",
        "stop_price",
        "trade_off",
        "near_best",
        "nothing_to_narrow",
        "disagreement",
    ] = Field(description="what is missing")
    text: str
    trials_needed: int | None = Field(
        None, ge=1, description="more trials of the method, where that can be said"
    )


class Experiment(Strict):
    """What would settle a statement; `report --next K` writes the trials that tell most."""

    trials: int = Field(ge=1, description="about this many more trials of the method ...")
    low: float | None = Field(
        None, description="... with the hyperparameter in this range; null: in the whole space"
    )
    high: float | None = None


class GoodIn(Strict):
    """Where groups disagree: the values that are good in most of them, and where they are not."""

    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] | None = None
    good_in: tuple[str, ...] = Field(description="every value is good with probability 0.9 or more")
    not_in: tuple[str, ...] = Field(description="no value is good, at 0.9 over all groups")
    open_in: tuple[str, ...] = Field(description="neither is known")


class Guideline(Strict):
    """One statement: a claim, a likely range, `leave it alone`, or what is not known yet."""

    id: str = Field(description="stable: kind, method and hyperparameter")
    kind: ClaimKind
    status: Status = Field(
        description="from strong to weak: `claimed`; `leave_alone`: no value that was searched "
        "costs more than the tolerance; `likely`: a range with a probability; `not_known`"
    )
    withheld_because: tuple[Reason, ...] = Field(
        (), description="why it is not claimed; empty for `claimed` and `leave_alone`"
    )
    probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="`likely`: that a value of the range is good; `leave_alone`: that no value "
        "costs more than the tolerance",
    )
    settled_by: Experiment | None = None
    agreement: GoodIn | None = Field(None, description="where groups disagree")
    grade: Grade | None = None
    scope: Scope
    param: str | None = None
    search_space: ClaimedRegion | None = None
    low_is_boundary: bool = Field(
        False, description="the region touches the low end of what was searched: censored"
    )
    high_is_boundary: bool = False
    warm_start: Value = None
    rule: str | None = Field(
        None, description="a rule in words of the field, e.g. of a stopping rule"
    )
    estimates: dict[str, Any] = Field(
        default_factory=dict, description="numbers of the claim, with their intervals"
    )
    evidence: Evidence
    text: str = Field("", description="the sentence, rendered from all of the above")

    @property
    def why(self) -> str:
        """Why it is not claimed, in words; empty where nothing is withheld."""
        return "; ".join(reason.text for reason in self.withheld_because)

    @field_validator("kind", mode="before")
    @classmethod
    def _former_kind(cls, kind: object) -> object:
        return "range" if kind in FORMER_RANGES else kind

    @field_validator("status", mode="before")
    @classmethod
    def _former_status(cls, status: object) -> object:
        return FORMER_STATUS.get(status, status) if isinstance(status, str) else status

    @model_validator(mode="after")
    def _reasons(self) -> Self:
        open_ = self.status in ("likely", "not_known")
        if open_ != bool(self.withheld_because):
            raise ValueError(
                "a likely or unknown guideline needs `withheld_because`, any other has none"
            )
        if (self.status == "claimed") != (self.grade is not None):
            raise ValueError("a claimed guideline needs a `grade`, any other has none")
        if (self.status in ("likely", "leave_alone")) != (self.probability is not None):
            raise ValueError("likely and leave_alone need a `probability`, any other has none")
        return self


class BestTrial(Strict):
    """The best trial of a method in a study: the lowest score on the half that chooses."""

    study: str
    method: str | None = Field(None, description="null: the table names none")
    trial: int = Field(ge=0, description="its line in the report's data/trials.csv")
    number: int | None = Field(None, ge=0, description="in the study's ledger; null: no study")
    update: float | None = Field(description="of the evaluation that scores it; null: not known")
    strength: float = Field(
        1.0, description="of that evaluation: a in W_0 + a (W_t - W_0), 1 as trained"
    )
    score: float = Field(description="of that evaluation, on the half that reports")
    label: str | None = Field(None, description="its name in a table of another program")
    hyperparameters: dict[str, float | str] = Field(
        {}, description="values of what was searched, where the trial has one"
    )


class RegretAtMost(Strict):
    """What a setting costs at most against the best that the method could reach."""

    expected: float = Field(
        ge=0, description="upper bound of the expected regret, mean over groups"
    )
    high: float = Field(ge=0, description="the regret is below it with probability 0.95 or more")
    p_good: float = Field(
        ge=0, le=1, description="within the tolerance with at least this probability, in each group"
    )


class Updates(Strict):
    """Free steps: updates after which trials near the setting are scored."""

    typical: float = Field(description="median")
    low: float
    high: float


class AtStrength(Strict):
    """The strength at which trials near the setting are scored: a in W_0 + a (W_t - W_0)."""

    meets_target: bool = Field(
        description="most of them are scored at the strength that meets the forget target, which "
        "is found anew for each trained model; else as trained"
    )
    typical: float = Field(description="median")
    low: float
    high: float


class Recommendation(Strict):
    """The setting of a method to use, at whatever number of trials there is."""

    method: str | None = Field(None, description="null: the table names none")
    setting: dict[str, Value] = Field(description="hyperparameters that were searched")
    updates: Updates | None = Field(None, description="null: not free, or not known")
    strength: AtStrength | None = Field(
        None, description="null: as trained; no other strength was measured"
    )
    source: Literal["surface", "best_trial"] = Field(
        description="`surface`: lowest expected score; `best_trial`: too few trials for a surface"
    )
    score: float | None = Field(
        description="expected there (`surface`), or measured (`best_trial`); mean over groups; "
        "null: too large for a number"
    )
    regret: RegretAtMost | None = Field(None, description="null: not known (`best_trial`)")
    best_trial_regret: RegretAtMost | None = Field(
        None, description="the same of the best trial so far: what there is still to gain"
    )
    n_trials: int = Field(ge=1, description="that it rests on, adaptive ones among them")
    n_groups: int = Field(ge=1)


class Guidelines(Strict):
    """The content of a guidelines.json."""

    schema_version: int = GUIDELINES_VERSION
    provenance: dict[str, Any] = Field(
        description="sources with digests, versions, seed, thresholds"
    )
    score: ScoreInfo
    best_trials: tuple[BestTrial, ...] = Field(
        (), description="by study and method; older files have none"
    )
    recommendations: tuple[Recommendation, ...] = Field(
        (),
        description="one per method, the best first where all have the same groups; older files "
        "have none",
    )
    guidelines: tuple[Guideline, ...]

    @property
    def claimed(self) -> tuple[Guideline, ...]:
        """Claims that were made."""
        return tuple(g for g in self.guidelines if g.status == "claimed")

    def as_json(self) -> str:
        """The file's text; the same claims give the same bytes."""
        return (
            json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
            + "\n"
        )


def load_guidelines(path: Path) -> Guidelines:
    """Read a `guidelines.json`.

    Raises:
        UserError: the file is missing, not JSON, another program's, or of a newer version.
    """
    try:
        content = json_value(given_bytes(path))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; `ray-unlearn report` writes a guidelines.json"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or "guidelines" not in content:
        raise UserError(
            f"{path}: no guidelines in it; name a guidelines.json that `ray-unlearn report` wrote"
        )
    version = content.get("schema_version")
    if not isinstance(version, int) or version > GUIDELINES_VERSION:
        raise UserError(
            f"{path}: schema version {version!r}, this program reads up to {GUIDELINES_VERSION}; "
            "update it"
        )
    return validated(Guidelines, content, str(path))
