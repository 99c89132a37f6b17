"""Searchers replayed over a table of rows: updates and seconds to a good score, side by side.

    python benchmarks/search_table.py --rows docs/reference/rows.parquet \
        --baselines docs/reference/baselines.parquet --study studies/reference/world.yaml

    python benchmarks/search_table.py --table FOLDER --between nearest \
        --study studies/reference/world.yaml

The table is a study's (`ledger/rows.parquet`, or several of them in one, told apart by `study`), or
a folder of Parquet files with facts in table.json: a line per evaluation, with the trial, its
hyperparameters, `update`, `learning_rate_sum` and the losses that a score is made of. The study
file gives the search space.
A cell is one method in one domain, all its trained models together, and stands for a world of which
a searcher may ask any configuration:

    surrogate  for tables with few configurations. Each change of a loss is a thin-plate spline over
               the hyperparameters and the sum of learning rates, smoothed as much as predicts left-
               out trials best. What a seed does, the residual of whole trials, is drawn anew for
               every configuration. It is smooth in what scores are made of, as trained models are
               and as `surface` believes: it flatters `surface` where truth is rougher
    nearest    for tables with many. A configuration that is asked for becomes the nearest one of
               the table that was not tried yet, with its real rows

A search is charged for its updates, and in seconds for them and for evaluations by the table's
medians; its suggestions are timed apart. It has arrived when the row that it holds for best, noise
included, is truly within so much of the best there is. `surrogate` knows the truth of each row;
for `nearest` it is the row itself.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyarrow.parquet
from scipy.interpolate import RBFInterpolator

from ray_unlearn.execution.drawn_points import active
from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.search import Search
from ray_unlearn.execution.trial_curves import UnitSpace
from ray_unlearn.spec.search_space import SearchSpace
from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.event import Header
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule

Array = np.ndarray
LOSSES = ("forget_nll", "retain_nll_selection", "general_nll_selection")
UNIT = 0.05
MOST_TRIALS = 1_000
MOST_CHANGE = 20.0
TOLERANCE = "one tolerance"
SMOOTHING = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
FOLDS = 6


class World(Protocol):
    """What a searcher may ask."""

    space: SearchSpace
    updates: tuple[int, ...]
    vanilla: Row
    best: float
    update_s: float
    evaluation_s: float

    def trial(self, config: TrialConfig, number: int) -> tuple[TrialConfig, list[Row], list[float]]:
        """The configuration that was run, its rows, and the true score of each."""


# ------------------------------------------------------------------------------------------ worlds


def losses_of(rows: pd.DataFrame, vanilla: pd.DataFrame) -> Array:
    """Transformed changes [r, 3] of the rows, against the vanilla model of each row's study."""
    own = vanilla.loc[rows["study"], list(LOSSES)].to_numpy(dtype=float)
    change = rows[list(LOSSES)].to_numpy(dtype=float) - own
    return np.arcsinh(np.clip(np.nan_to_num(change, nan=MOST_CHANGE), -1, MOST_CHANGE) / UNIT)


class Surrogate:
    """A smooth world through the trials of one method in one domain."""

    def __init__(
        self, rows: pd.DataFrame, vanilla: pd.DataFrame, space: SearchSpace, updates: Sequence[int]
    ) -> None:
        self.space, self.updates = space, tuple(updates)
        self._unit = UnitSpace(space)
        known = vanilla.loc[rows["study"].unique()]
        self.vanilla: Row = {name: float(known[name].mean()) for name in known.columns}
        at, values = self._inputs(rows), losses_of(rows, vanilla)
        trials = rows.groupby(["study", "trial_id"]).ngroup().to_numpy()
        still = np.unique(at[:, :-1], axis=0)
        still = np.column_stack([still, np.full(len(still), self._effort(0.5, 1e-5))])
        where = np.concatenate([at, still])
        what = np.concatenate([values, np.zeros((len(still), 3))])
        owner = np.concatenate([trials, np.full(len(still), -1)])
        errors = {s: self._error(where, what, owner, s) for s in SMOOTHING}
        self.smoothing = min(errors, key=lambda s: errors[s])
        self.error = errors[self.smoothing]
        self._spline = RBFInterpolator(where, what, smoothing=self.smoothing)
        residual = pd.DataFrame(values - self._spline(at)).groupby(trials).mean()
        self.seed_sd = residual.std(ddof=0).to_numpy()
        self.update_s = float((rows["wall_s"] / rows["update"]).median())
        last = rows.sort_values("update").groupby(["study", "trial_id"])
        self.evaluation_s = float((last["evaluation_wall_s"].last() / last.size()).median())
        self.best = min(self._true(point).min() for point in self._unit.settled(self._fine()))

    def trial(self, config: TrialConfig, number: int) -> tuple[TrialConfig, list[Row], list[float]]:
        point = self._unit.unit(active(self.space, config.model_dump()))
        rng = np.random.default_rng(int(digest([config.id], length=8), 16))
        luck = rng.standard_normal(3) * self.seed_sd
        clean = self._curve(point)
        rows = self._scored(point, clean + luck)
        true = [row[OBJECTIVE] for row in self._scored(point, clean)]
        return config, rows, true

    def _inputs(self, rows: pd.DataFrame) -> Array:
        space = self.space
        units = [
            self._unit.unit(active(space, dict(row)))
            for row in rows[list(space.sampled())].to_dict("records")
        ]
        efforts = np.log10(rows["learning_rate_sum"].to_numpy(dtype=float))
        return np.column_stack([np.array(units), efforts])

    @staticmethod
    def _effort(update: float, rate: float) -> float:
        return math.log10(update * rate)

    def _curve(self, unit: Array) -> Array:
        rate = float(self._unit.point(unit)["learning_rate"])
        at = [[*unit, self._effort(update, rate)] for update in self.updates]
        return np.asarray(self._spline(np.array(at)))

    def _scored(self, unit: Array, transformed: Array) -> list[Row]:
        rate = float(self._unit.point(unit)["learning_rate"])
        changes = UNIT * np.sinh(np.clip(transformed, -10, math.asinh(MOST_CHANGE / UNIT)))
        return [
            row_of(update, rate * update, change, self.vanilla)
            for update, change in zip(self.updates, changes.tolist(), strict=True)
        ]

    def _true(self, unit: Array) -> Array:
        return np.array([row[OBJECTIVE] for row in self._scored(unit, self._curve(unit))])

    def _fine(self) -> Array:
        d = len(self._unit.axes)
        grid = np.linspace(0, 1, {1: 400, 2: 40}.get(d, 12))
        return np.stack(np.meshgrid(*[grid] * d, indexing="ij"), -1).reshape(-1, d)

    @staticmethod
    def _error(at: Array, values: Array, trials: Array, smoothing: float) -> float:
        """Mean absolute transformed error of trials left out."""
        misses = []
        for fold in range(FOLDS):
            out = (trials % FOLDS == fold) & (trials >= 0)
            spline = RBFInterpolator(at[~out], values[~out], smoothing=smoothing)
            misses.append(np.abs(spline(at[out]) - values[out]))
        return float(np.concatenate(misses).mean())


def row_of(update: int, effort: float, change: Sequence[float], vanilla: Row) -> Row:
    """A scored row from changes of the three losses; both halves are one here."""
    forget, retain, general = (vanilla[n] + c for n, c in zip(LOSSES, change, strict=True))
    row = {"update": update, "learning_rate_sum": effort, "forget_nll": forget, "strength": 1.0}
    for half in ("selection", "reporting"):
        row |= {f"retain_nll_{half}": retain, f"general_nll_{half}": general}
    return scored(row, Baselines(both_halves(vanilla)))


def both_halves(vanilla: Row) -> Row:
    """The vanilla model's row with the selection half for both."""
    names = ("approximate", "retain", "general")
    return vanilla | {f"{n}_nll_reporting": vanilla[f"{n}_nll_selection"] for n in names}


class Nearest:
    """The real trials of one method in one world; each is run once."""

    def __init__(
        self, rows: pd.DataFrame, vanilla: pd.DataFrame, space: SearchSpace, updates: Sequence[int]
    ) -> None:
        self.space = space
        self._unit = UnitSpace(space)
        self.vanilla = {n: float(vanilla.loc[rows["study"].iloc[0], n]) for n in vanilla.columns}
        self._points: list[dict[str, Any]] = []
        self._rows: list[list[Row]] = []
        for _, own in rows.sort_values("update").groupby(["study", "trial_id"]):
            self._points.append(active(space, own[list(space.sampled())].iloc[0].to_dict()))
            change = own[list(LOSSES)].to_numpy(dtype=float)
            change = change - [self.vanilla[name] for name in LOSSES]
            about = zip(own["update"].astype(int), own["learning_rate_sum"], change, strict=True)
            self._rows.append([row_of(u, float(e), c.tolist(), self.vanilla) for u, e, c in about])
        self._units = np.array([self._unit.unit(point) for point in self._points])
        self.updates = tuple(sorted({row["update"] for own in self._rows for row in own}))
        self.update_s = float((rows["wall_s"] / rows["update"]).median())
        last = rows.sort_values("update").groupby(["study", "trial_id"])
        self.evaluation_s = float((last["evaluation_wall_s"].last() / last.size()).median())
        scores = [row[OBJECTIVE] for own in self._rows for row in own]
        self.best = min(score for score in scores if math.isfinite(score))
        self._left: set[int] = set()

    def trial(self, config: TrialConfig, number: int) -> tuple[TrialConfig, list[Row], list[float]]:
        if number == 0:
            self._left = set(range(len(self._points)))
        wanted = self._unit.unit(active(self.space, config.model_dump()))
        left = sorted(self._left)
        away = np.abs(self._units[left] - wanted).sum(1)
        chosen = left[int(away.argmin())]
        self._left.discard(chosen)
        config = config.model_copy(update=self._points[chosen])
        return config, self._rows[chosen], [row[OBJECTIVE] for row in self._rows[chosen]]

    @property
    def exhausted(self) -> bool:
        """Whether every trial was run."""
        return not self._left


def of_studies(rows: Path, baselines: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and baselines of studies' result tables."""
    read = pyarrow.parquet.read_table
    return read(rows).to_pandas(), read(baselines).to_pandas()


def of_table(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows, of the first seed, and baselines of a table with facts in table.json."""
    facts = json.loads((folder / "table.json").read_text())
    found, baselines = [], []
    for stem, about in facts["files"].items():
        rows = pyarrow.parquet.read_table(folder / f"{stem}.parquet").to_pandas()
        rows = rows[rows["seed"] == rows["seed"].min()]
        model = rows["trained_model"].astype(str)
        trial = rows["configuration"].astype(str)
        found.append(rows.assign(study=rows["domain"] + " " + model, trial_id=trial))
        baselines += [
            {"study": f"{about['domain']} {number}", "baseline": name} | row
            for number, model in about["models"].items()
            for name, row in model["baselines"].items()
        ]
    return pd.concat(found, ignore_index=True), pd.DataFrame(baselines)


def cells(given: argparse.Namespace, base: StudySpec) -> Iterator[tuple[str, Callable[[], World]]]:
    """Each cell's name, and what makes its world."""
    rows, lines = of_table(given.table) if given.table else of_studies(given.rows, given.baselines)
    rows = rows[(rows["strength"].fillna(1.0) == 1.0) & (rows["learning_rate_sum"] > 0)]
    vanilla = lines[lines["baseline"] == "vanilla"].set_index("study")
    vanilla = vanilla[[*LOSSES, "approximate_nll_selection"]].astype(float)
    make = Surrogate if given.between == "surrogate" else Nearest
    by = ["domain"] if given.between == "surrogate" else ["domain", "study"]
    for method in given.methods or sorted(rows["method"].unique()):
        for key, own in rows[rows["method"] == method].groupby(by):
            label = f"{method}, {', '.join(key)}"
            if given.only and given.only not in label:
                continue
            updates = given.updates or base.evaluation.updates(given.steps)
            yield label, partial(make, own, vanilla, base.spaces[method], updates)


# --------------------------------------------------------------------------------------- searchers


@dataclass(frozen=True)
class Contestant:
    """One way to search."""

    name: str
    sampler: str
    scheduler: str = "none"


CONTESTANTS = (
    Contestant("surface + forecast", "surface", "forecast"),
    Contestant("surface + past_best", "surface", "past_best"),
    Contestant("surface", "surface"),
    Contestant("TPE + forecast", "tpe", "forecast"),
    Contestant("TPE + median", "tpe", "median"),
    Contestant("TPE", "tpe"),
    Contestant("GP", "gp"),
    Contestant("random + median", "random", "median"),
    Contestant("random + forecast", "random", "forecast"),
    Contestant("random", "random"),
    Contestant("published grid", "grid"),
)


def spec_for(base: StudySpec, world: World, contestant: Contestant, seed: int) -> StudySpec:
    """The study as the contestant would run it."""
    content = base.model_dump(mode="json")
    method = world.space.method
    content |= {"methods": [method], "spaces": {method: content["spaces"][method]}}
    content["evaluation"] |= {"at": world.updates, "every": None, "strength": "trained"}
    grace = world.updates[min(1, len(world.updates) - 1)]
    content["search"] = {
        "sampler": contestant.sampler,
        "trials_per_method": None if contestant.sampler == "grid" else MOST_TRIALS,
        "quasi_random_share": 0.0,
        "scheduler": {
            "type": contestant.scheduler,
            "grace_updates": 1 if contestant.scheduler == "forecast" else grace,
        },
        "seed": seed,
    }
    return StudySpec.model_validate(content)


@dataclass
class Run:
    """The true score of what a search holds for best, as its updates and seconds go by."""

    updates: int = 0
    seconds: float = 0.0
    trials: int = 0
    suggesting_s: list[float] = field(default_factory=list)
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    """Updates, seconds, true score of the row that is best by then."""

    def reached(self, score: float) -> tuple[float, float]:
        """Updates and seconds from which on the row held for best is at least so good."""
        found = (math.inf, math.inf)
        for updates, seconds, true in reversed(self.steps):
            if true > score:
                break
            found = (updates, seconds)
        return found


def replay(spec: StudySpec, world: World, budget: int, goal: float, lanes: int = 1) -> Run:
    """Search until what is held for best reached the goal five trials ago, or the budget is spent.

    With several lanes as many configurations are asked for before the first of them has a result;
    seconds are those of all lanes together.
    """
    vanilla = both_halves(world.vanilla)
    record = Record(Header(), baselines={"vanilla": vanilla})
    search = Search(spec, "search_table", record.baselines)
    pruner = Pruner(spec, search.surfaces)
    rule, run, best = ScoreRule.of(record, spec), Run(), math.inf
    since = 0
    while run.updates < budget and since < 5:
        asked = []
        for number in range(run.trials, run.trials + lanes):
            began = time.process_time()
            config = search.ask(number)
            run.suggesting_s.append(time.process_time() - began)
            if config is None:
                break
            asked.append((number, *world.trial(config, number)))
        if not asked:
            break
        for number, config, rows, truths in asked:
            trial = Trial(number, config.id, config.model_dump(mode="json"))
            record.trials[number] = trial
            run.trials += 1
            status: Any = "complete"
            before = 0
            for row, truth in zip(rows, truths, strict=True):
                run.updates += row["update"] - before
                run.seconds += (row["update"] - before) * world.update_s + world.evaluation_s
                before = row["update"]
                if not math.isfinite(row[OBJECTIVE]):
                    status = "diverged"
                    break
                trial.rows.append(row)
                if rule.is_settled(row, trial) and row[OBJECTIVE] < best:
                    best = row[OBJECTIVE]
                    run.steps.append((run.updates, run.seconds, truth))
                began = time.process_time()
                stopped = pruner.verdict(record, number, row)
                run.suggesting_s[-1] += time.process_time() - began
                if stopped is not None:
                    status = "pruned"
                    break
            trial.status = status
            search.tell(trial)
        since = since + 1 if run.steps and run.steps[-1][2] <= goal else 0
        if isinstance(world, Nearest) and world.exhausted:
            break
    return run


# ------------------------------------------------------------------------------------------ output


def middle(values: Sequence[float]) -> str:
    """Median and quartiles; `never` where half of the seeds do not arrive."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    shown = [f"{v:,.0f}" if math.isfinite(v) else "never" for v in (median, low, high)]
    return f"{shown[0]} ({shown[1]}-{shown[2]})"


def compare(
    label: str, world: World, base: StudySpec, given: argparse.Namespace
) -> dict[str, Mapping[str, list[float]]]:
    """Print a cell's table; return each contestant's updates by goal.

    A search that never arrived is charged its budget.
    """
    goals = {
        "5 %": world.best * 1.05,
        "10 %": world.best * 1.1,
        TOLERANCE: world.best + given.tolerance,
    }
    if given.until_tolerance:
        goals = {TOLERANCE: goals[TOLERANCE]}
    budget = given.budget * world.updates[-1]
    print(f"\n{label}: best {world.best:.3f}, updates {world.updates}", flush=True)
    if isinstance(world, Surrogate):
        sd = ", ".join(f"{value:.2f}" for value in world.seed_sd)
        print(
            f"  spline smoothed {world.smoothing:g}; left-out trials missed by {world.error:.2f} "
            f"on the asinh scale; a seed's SD {sd}"
        )
    found: dict[str, Mapping[str, list[float]]] = {}
    for contestant in CONTESTANTS:
        if given.contestants and contestant.name not in given.contestants:
            continue
        runs = [
            replay(
                *(spec_for(base, world, contestant, seed), world, budget),
                *(min(goals.values()), given.lanes),
            )
            for seed in range(given.seeds)
        ]
        reached = {name: [run.reached(goal) for run in runs] for name, goal in goals.items()}
        texts = [f"{middle([u for u, _ in reached[name]]):>22}" for name in goals]
        never = statistics.mean(math.isinf(u) for u, _ in reached[TOLERANCE])
        seconds = middle([s for _, s in reached[TOLERANCE]])
        own = [s for run in runs for s in run.suggesting_s]
        print(
            f"  {contestant.name:20}" + "".join(texts) + f"{never:6.0%} never {seconds:>22} s "
            f"{statistics.median(own):6.2f} s/trial",
            flush=True,
        )
        found[contestant.name] = {
            name: [min(u, budget) for u, _ in reached[name]] for name in goals
        }
    return found


def summary(found: Sequence[Mapping[str, Mapping[str, list[float]]]]) -> None:
    """Each contestant's updates, a search that never arrived charged its budget."""
    names = list(found[0])
    print("\nover all cells, mean updates of each cell, a search that fails charged its budget:")
    for goal in found[0][names[0]]:
        print(
            f"  to within {goal}: geometric mean, beside TPE + median; cells with at most a third"
        )
        print("  of its updates; cells with more updates than random")
        means = {name: np.array([np.mean(cell[name][goal]) for cell in found]) for name in names}
        for name, own in means.items():
            text = f"    {name:20} {np.exp(np.log(own).mean()):6.0f}"
            if "TPE + median" in means:
                ratios = own / means["TPE + median"]
                text += f"  x {np.exp(np.log(ratios).mean()):4.2f} {np.sum(ratios <= 1 / 3):5}"
            if "random" in means:
                text += f" {np.sum(own > means['random']):5} of {len(own)}"
            print(text)


def main() -> None:
    """Run all cells."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rows", type=Path, help="a result table, with --baselines")
    source.add_argument("--table", type=Path, help="a folder with table.json and its files")
    parser.add_argument("--baselines", type=Path)
    parser.add_argument("--study", type=Path, required=True, help="its spaces are searched")
    parser.add_argument("--between", choices=["surrogate", "nearest"], default="surrogate")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--only", default="", help="cells whose name has this part")
    parser.add_argument("--contestants", nargs="+")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=60, help="in trials of full length")
    parser.add_argument(
        "--until-tolerance", action="store_true", help="a search ends there; sooner done"
    )
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=0.1, help="nats/token")
    parser.add_argument(
        "--updates", type=int, nargs="+", help="evaluated by a surrogate; default: the study's"
    )
    parser.add_argument("--steps", type=int, default=32, help="updates of a whole trial")
    given = parser.parse_args()
    if given.rows and not given.baselines:
        parser.error("--rows: give --baselines too")
    base = load_study(given.study)
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    found = [compare(label, make(), base, given) for label, make in cells(given, base)]
    if not found:
        sys.exit("no cell has that name")
    summary(found)


if __name__ == "__main__":
    main()
