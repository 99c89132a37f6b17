"""What the columns of a foreign table are: by their names, or by a mapping `theirs=ours`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray_unlearn.analysis.read.evaluation_rows import REQUIRED, lacks
from ray_unlearn.spec.errors import UserError, nearest

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
    "learning_rate_sum": ("learning_rate_sum",),
}
"""What a column can be, and the names by which it is recognised. In a trial's only line `steps` is
a hyperparameter too."""
KEYS = ("study", "domain", "model", "method")
METRICS = (
    "score",
    "score_selection",
    "forget_nll",
    "target_nll",
    "forget_gap",
    "utility_loss",
    "learning_rate_sum",
)
IGNORE = "ignore"
TAKEN = frozenset(
    {
        *ROLES,
        "update",
        "group",
        "infeasible",
        "drawn",
        "crossed",
        "label",
        "evaluations",
        "missing",
        IGNORE,
    }
)
"""No names for hyperparameters: columns of the trial table."""
MOST_CATEGORIES = 12
"""A text column with more values is a remark, not a hyperparameter."""


@dataclass(frozen=True)
class Reading:
    """How foreign tables are to be read; see `table.load`."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    score: str | None = None
    maximise: bool = False
    sampler: str | None = None

    @property
    def given(self) -> str:
        """What was asked for, for errors; empty when nothing was."""
        options = [f"--map {theirs}={ours}" for theirs, ours in self.mapping.items()]
        options += [f"--score {self.score}"] if self.score else []
        options += ["--maximise"] if self.maximise else []
        return " ".join([*options, *([f"--sampler {self.sampler}"] if self.sampler else [])])


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


def roles_of(columns: list[str], reading: Reading, where: str) -> dict[str, str]:
    """The column of each role, by mapped names first, then by recognised ones.

    Raises:
        UserError: no trial or score column, a mapping of a column that is not there, two columns
        for one role.
    """
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are named {twice!r}; rename one")
    mapping = dict(reading.mapping)
    if reading.score is not None:
        if mapping.get(reading.score, "score") != "score":
            raise UserError(
                f"--score {reading.score} contradicts --map "
                f"{reading.score}={mapping[reading.score]}"
            )
        mapping[reading.score] = "score"
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
    roles: dict[str, str] = {}
    for role, aliases in ROLES.items():
        chosen = [
            theirs
            for theirs, ours in mapping.items()
            if ours == role or (role == "step" and ours == "update")
        ]
        recognised = [name for name in aliases if name in columns and name not in mapping]
        found = (chosen + [name for name in recognised if name != "steps"]) or recognised
        if len(found) > 1:
            raise UserError(
                f"{where}: columns `{found[0]}` and `{found[1]}` are both {role!r}; say `--map "
                f"{found[1]}={IGNORE}`"
            )
        if found:
            roles[role] = found[0]
    missing = [role for role in ("trial", "score") if role not in roles]
    if missing:
        absent = [] if reading.given else [name for name in REQUIRED if name not in columns]
        own = f"{lacks(absent)} of our own tables, and as a foreign one it " if absent else ""
        free = [name for name in columns if name not in roles.values() and name not in mapping]
        raise UserError(
            f"{where}: {own}{lacks(missing)}; say which it is with `--map "
            f"COLUMN={missing[0]}`{nearest(missing[0], free)}"
        )
    return roles


def left_over(
    columns: list[str], roles: dict[str, str], reading: Reading, where: str
) -> dict[str, str]:
    """Columns that may be hyperparameters: our name to theirs.

    Raises:
        UserError: two columns that are the same hyperparameter.
    """
    searched: dict[str, str] = {}
    for theirs in columns:
        ours = reading.mapping.get(theirs, theirs)
        if theirs in roles.values() or ours == IGNORE:
            continue
        if ours in searched:
            raise UserError(
                f"{where}: columns `{searched[ours]}` and `{theirs}` are both {ours!r}; say "
                f"`--map {ours}={IGNORE}`"
            )
        searched[ours] = theirs
    return searched
