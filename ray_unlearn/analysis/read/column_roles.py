"""Columns with a meaning of their own: trial, score, seed, step and so on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from ray_unlearn.analysis.read.column_names import is_metric, why_bookkeeping, without_prefix
from ray_unlearn.analysis.read.table_formats import MLFLOW, OPTUNA, RAY_OWN, RAY_TUNE, TableFormat
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.score_weights import ScoreWeights, weights_of

ROLES: dict[str, tuple[str, ...]] = {
    "trial": ("trial",),
    "score": ("score",),
    "score_selection": ("score_selection",),
    "study": ("study",),
    "domain": ("domain",),
    "model": ("model",),
    "method": ("method",),
    "seed": ("seed",),
    "step": ("step", "update", "steps"),
    "status": ("status",),
    "sampler": ("sampler", "sampled_by"),
    "score_rule": ("score_rule",),
    "forget_nll": ("forget_nll",),
    "target_nll": ("target_nll",),
    "forget_gap": ("forget_gap",),
    "utility_loss": ("utility_loss",),
    "retain_utility_loss": ("retain_utility_loss",),
    "general_utility_loss": ("general_utility_loss",),
    "learning_rate_sum": ("learning_rate_sum",),
}
"""What a column can be, and the names by which it is recognised. In a trial's only line `steps` is
a hyperparameter too."""
USUAL: dict[str, tuple[str, ...]] = {
    "trial": (
        "trial_id", "trial_number", "run_id", "run", "run_name", "name", "id", "experiment", "exp",
        "exp_name", "config_id", "task_name",
    ),
    "seed": ("random_seed", "rng_seed", "replicate", "repeat"),
    "status": ("state",),
    "method": ("algorithm", "algo", "unlearning_method", "unlearn_method"),
    "domain": ("dataset", "forget_set"),
    "model": ("model_name", "base_model"),
    "score": (),
    "study": (),
    "sampler": (),
    "step": ("update", "global_step", "_step", "training_iteration", "iteration", "epoch"),
}  # fmt: skip
"""Names that are usual elsewhere, in any case; the first that is there counts. A name of the trial
must differ in every line, unless a column counts steps; steps need several lines of a trial."""
OF_RUNS = ("trial", "trial_id", "trial_number", "run_id")
SEARCHED_ROLES = ("seed", "method", "model", "domain")
"""Roles that a column marked as a hyperparameter (`config/seed`) has all the same."""
KEYS = ("study", "domain", "model", "method")
METRICS = (
    "score",
    "score_selection",
    "forget_nll",
    "target_nll",
    "forget_gap",
    "utility_loss",
    "retain_utility_loss",
    "general_utility_loss",
    "learning_rate_sum",
)
IGNORE = "ignore"
TAKEN = frozenset((
    "update", "group", "infeasible", "without_score", "drawn", "crossed", "label",
    "evaluations", "missing", "number",
)) | {*ROLES, IGNORE}  # fmt: skip
"""No names for hyperparameters: columns of the trial table."""


@dataclass(frozen=True)
class Reading:
    """How sources are to be read, foreign tables above all; see `study_results.load`."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    score: str | None = None
    maximise: bool | None = None
    """None: as the program that wrote the table says, or the name of the score."""
    sampler: str | None = None
    params: tuple[str, ...] = ()
    """Columns that are hyperparameters; empty: decided column by column."""
    outcomes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Words in the score column that mean a failed trial."""
    weights: ScoreWeights | None = None
    """Weights of the scores' parts, of studies too; None: scores are as they were stored."""

    @property
    def given(self) -> list[str]:
        """What was asked for of foreign tables, as on the command line; empty: nothing."""
        parts = [part for pair in self.mapping.items() for part in ("--map", "=".join(pair))]
        parts += ["--score", self.score] if self.score else []
        parts += [] if self.maximise is None else [("--minimise", "--maximise")[self.maximise]]
        parts += ["--sampler", self.sampler] if self.sampler else []
        for option in ("params", "outcomes", "failed"):
            if values := getattr(self, option):
                parts += [f"--{option}", ",".join(values)]
        return parts


class HowToRead(TypedDict, total=False):
    """`Reading` as keyword arguments."""

    mapping: Mapping[str, str] | None
    score: str | None
    maximise: bool | None
    sampler: str | None
    params: Sequence[str]
    outcomes: Sequence[str]
    failed: Sequence[str]
    objective: Mapping[str, float] | None


def reading_of(**how: Unpack[HowToRead]) -> Reading:
    """How sources are to be read, from keyword arguments.

    Raises:
        UserError: weights that are none.
    """
    objective = how.get("objective")
    return Reading(
        dict(how.get("mapping") or {}),
        how.get("score"),
        how.get("maximise"),
        how.get("sampler"),
        tuple(how.get("params", ())),
        tuple(how.get("outcomes", ())),
        tuple(how.get("failed", ())),
        None if objective is None else weights_of(objective),
    )


@dataclass(frozen=True)
class ColumnUse:
    """What a column of a foreign table was taken for."""

    column: str
    use: str
    """A role (`ROLES`), `hyperparameter`, `outcome` or `left out`."""
    name: str
    """Its name here; empty where it is not used."""
    why: str


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`["lr=learning_rate"]` as `{"lr": "learning_rate"}`.

    Raises:
        UserError: no `=`, an empty side, or a column that is given two meanings.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.rpartition("=")
        if not (equals and theirs.strip() and ours.strip()):
            raise UserError(f"--map {pair}: write THEIRS=OURS, e.g. --map lr=learning_rate")
        if mapping.get(theirs.strip(), ours.strip()) != ours.strip():
            raise UserError(
                f"--map {pair}: {theirs!r} is mapped to {mapping[theirs.strip()]!r} already; keep "
                "one"
            )
        mapping[theirs.strip()] = ours.strip()
    return mapping


def meant_column(name: str, columns: Sequence[str], option: str, where: str) -> str:
    """The column that a user means: its name, or its name without the program's prefix.

    Raises:
        UserError: there is none.
    """
    if name in columns:
        return name
    alike = [
        column
        for column in columns
        if name in (without_prefix(column), column.removeprefix("metrics."))
    ]
    if len(alike) == 1:
        return alike[0]
    raise UserError(f"{where}: {option}: no column {name!r}{nearest(name, columns)}")


def full_mapping(columns: list[str], reading: Reading, where: str) -> dict[str, str]:
    """Theirs to ours, as the user says with `--map` and `--score`.

    Raises:
        UserError: a column that is not there, a name that is taken, two columns for one thing.
    """
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are named {twice!r}; rename one")
    mapping = dict(reading.mapping)
    if reading.score is not None:
        score = meant_column(reading.score, columns, f"--score {reading.score}", where)
        if mapping.get(score, "score") != "score":
            raise UserError(f"--score {score} contradicts --map {score}={mapping[score]}")
        mapping[score] = "score"
    for theirs, ours in mapping.items():
        if theirs not in columns:
            swapped = (
                f"; the column comes first: {ours}={theirs}"
                if ours in columns
                else nearest(theirs, columns)
            )
            raise UserError(f"{where}: --map {theirs}={ours}: no column {theirs!r}{swapped}")
        if ours in TAKEN - ROLES.keys() - {IGNORE, "update"}:
            raise UserError(
                f"{where}: --map {theirs}={ours}: {ours!r} has a meaning here; use another name"
            )
    named = [ours for ours in mapping.values() if ours != IGNORE]
    both = next((ours for ours in named if named.count(ours) > 1), None)
    if both is not None:
        clash = " and ".join(f"`{theirs}`" for theirs, ours in mapping.items() if ours == both)
        raise UserError(f"{where}: columns {clash} are both mapped to {both!r}; keep one")
    return mapping


def roles_of(
    columns: list[str], mapping: Mapping[str, str], form: TableFormat, where: str
) -> dict[str, ColumnUse]:
    """Role to column: what is mapped, then what the program names, then what is recognised.

    Usual names (`USUAL`) of trial and step depend on the lines: `roles_by_lines`.

    Raises:
        UserError: two columns for one role.
    """
    roles: dict[str, ColumnUse] = {}
    free = [name for name in columns if name not in mapping]
    for role, aliases in ROLES.items():
        chosen = [
            theirs
            for theirs, ours in mapping.items()
            if ours == role or (role == "step" and ours == "update")
        ]
        theirs_of = [name for name, meant in form.roles.items() if meant == role and name in free]
        recognised = [name for name in aliases if name in free and name not in form.roles]
        if role == "score" and chosen:
            recognised = []
        named = theirs_of or [name for name in recognised if name != "steps"]
        found = (chosen + named) or recognised
        if len(found) > 1:
            raise UserError(
                f"{where}: columns `{found[0]}` and `{found[1]}` are both {role!r}; say `--map "
                f"{found[1]}={IGNORE}`"
            )
        if found:
            why = (
                "--map or --score says so"
                if chosen
                else f"{form.name}"
                if theirs_of
                else "its name"
            )
            roles[role] = ColumnUse(found[0], role, role, why)
    for name in free:
        bare = without_prefix(name)
        if bare in SEARCHED_ROLES and bare not in roles:
            roles[bare] = ColumnUse(name, bare, bare, "its name, after the prefix")
    taken = {use.column for use in roles.values()}
    for role in (role for role in USUAL if role not in ("trial", "step") and role not in roles):
        for name in usual_columns(role, [name for name in free if name not in taken])[:1]:
            roles[role] = ColumnUse(name, role, role, "a usual name of it")
            taken.add(name)
    return roles


def usual_columns(role: str, columns: Sequence[str]) -> list[str]:
    """Columns with a usual name of a role, the likeliest first."""
    lower = {name.lower().replace(" ", "_"): name for name in columns}
    return [lower[name] for name in (role, *USUAL[role]) if name in lower]


def score_candidates(columns: Sequence[str], form: TableFormat) -> list[str]:
    """Columns that may be the score, where no name says which it is."""
    if form.name == OPTUNA:
        return [name for name in columns if name.startswith("values_")]
    bare = [name for name in columns if without_prefix(name) is None]
    if form.name == RAY_TUNE:
        return [name for name in bare if name not in RAY_OWN and not why_bookkeeping(name)]
    if form.name == MLFLOW:
        found = [name for name in bare if name.startswith("metrics.")]
        own = [name for name in found if not name.startswith("metrics.system/")]
        kept = [name for name in own if not why_bookkeeping(name.removeprefix("metrics."))]
        return kept or found
    return [name for name in bare if is_metric(name)]
