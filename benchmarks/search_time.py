"""What free steps and an adaptive search save, in seconds of one worker.

    steps   a learning rate x steps table of the demo's model: one trajectory per learning rate
            (with free steps the row at update t is the trial with t steps) against one run per
            cell. Both are run; the cells must be equal bit by bit
    table   real trajectories of the demo on a grid of learning rate x w_r, kept in a file; goes on
            where it was stopped
    search  the search's own classes replayed over that table with many sampler seeds: seconds until
            a configuration is within 5, 10 and 25 % of the best known score

`search` is a tabular benchmark, so what it scores is a surrogate: between the grid's nodes the rows
are interpolated, linearly in log learning rate, log w_r and the logarithm of what is interpolated.
Either that is the score: then the best known score is the table's least; or it is the losses that
the score is made of: the forget gap can then close between two nodes, as it does in truth, and the
best known score is the least on a fine grid. A node left out and predicted from its neighbours, at
twice the spacing, says how far either can be trusted.

What it cannot tell: how the searchers fare on truth between the nodes, with several lanes, with
another trial seed, method or model. One trial seed makes the table, and seeds move a demo score by
about a tenth: 5 % is finer than what is there. Seconds are the table's medians per update and
evaluation; suggestions, resets and start-up are not in them.

    python benchmarks/search_time.py --table search_time.jsonl [--only steps|table|search]

With the folder of a tabular benchmark (docs/tabular_benchmark.md), `search` alone runs, on any of
its methods, domains and trained models. Nothing is interpolated there: the nearest configuration
answers.

    python benchmarks/search_time.py --table results/table/table --domain latex --methods rmu
"""

import argparse
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from tabular_surface import TabularSurface, tabular_study

from ray_unlearn.execution.early_stopping import Pruner
from ray_unlearn.execution.search import Search
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.search_space import FloatRange, spread
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.event import Header
from ray_unlearn.store.record import Record, Trial
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import COLUMNS, HALVES, Row
from ray_unlearn.store.score import OBJECTIVE, ScoreRule

METHODS = ("gradient_ascent", "ascent_descent_in_distribution")
TOLERANCES = (0.05, 0.10, 0.25)
MOST_TRIALS = 1_000
"""More than any budget pays for."""
FINE = 60
"""Points per axis on which the least score between nodes is looked for."""
LOSSES = (
    "forget_nll",
    *(f"{name}_nll_{half}" for half in HALVES for name in ("retain", "general")),
)
Rule = Literal["score", "losses"]
AnySurface = Union["Surface", TabularSurface]
Point = dict[str, float]


def demo() -> StudySpec:
    """The study whose model, data, spaces and evaluated updates are used."""
    return load_study(Path(__file__).parent.parent / "studies" / "demo.yaml")


def searched(spec: StudySpec, method: str) -> dict[str, FloatRange]:
    """The parameters searched beside steps: the learning rate, and w_r if the method has it."""
    ranges = spec.spaces[method].sampled()
    assert all(
        isinstance(parameter, FloatRange) and parameter.scale == "log"
        for parameter in ranges.values()
    ), ranges
    return ranges  # type: ignore[return-value]


def updates_of(spec: StudySpec, method: str) -> tuple[int, ...]:
    """The updates at which a trial with free steps is evaluated."""
    steps = spec.spaces[method].parameters["steps"].high  # type: ignore[union-attr]
    return spec.evaluation.updates(steps)


# ------------------------------------------------------------------------------------- free steps,
# one run per cell


@dataclass
class Cost:
    """The time and the work of trials."""

    updates: int = 0
    evaluations: int = 0
    update_s: float = 0.0
    evaluation_s: float = 0.0
    seconds: float = 0.0
    """All of it, with the resets between trials."""

    def show(self, name: str) -> None:
        print(
            f"{name:16} {self.updates:5} updates {self.update_s:7.1f} s, {self.evaluations:3} "
            "evaluations "
            f"{self.evaluation_s:6.1f} s, in all {self.seconds:6.1f} s",
            flush=True,
        )


def steps(spec: StudySpec, single: Any, baselines: Baselines, method: str, rates: int) -> None:
    """Fill the table both ways, learning rate by learning rate, and compare cells and costs."""
    columns = updates_of(spec, method)
    parameter = searched(spec, method)["learning_rate"]
    free, apart = Cost(), Cost()
    for rate in spread(parameter.low, parameter.high, parameter.scale, rates):
        cells = rows_of(spec, single, baselines, method, rate, columns, free)
        for cell in cells:
            (alone,) = rows_of(spec, single, baselines, method, rate, (cell["update"],), apart)
            differ = [
                name for name in cell if COLUMNS[name].repeatable and cell[name] != alone[name]
            ]
            assert not differ, f"learning rate {rate:g}, {cell['update']} steps: {differ}"
    print(
        f"{method}, {rates} learning rates x {len(columns)} steps {columns}: all cells are equal "
        "bit by bit"
    )
    free.show("free steps")
    apart.show("one run per cell")
    print(
        f"one run per cell costs {apart.updates / free.updates:.2f} x the updates, "
        f"{apart.update_s / free.update_s:.2f} x their seconds, "
        f"{apart.seconds / free.seconds:.2f} x the seconds in all"
    )


def rows_of(
    spec: StudySpec,
    single: Any,
    baselines: Baselines,
    method: str,
    rate: float,
    columns: tuple[int, ...],
    cost: Cost,
) -> list[Row]:
    """The rows of one trial that runs to the last of `columns` and is evaluated at each.

    Its cost is added to `cost`.
    """
    hyperparameters = Hyperparameters(learning_rate=rate, steps=columns[-1])
    config = spec.trial_config(hyperparameters, method, 0, single.context).model_copy(
        update={"evaluate_at": columns}
    )
    rows: list[Row] = []
    began = time.perf_counter()
    ended = single.run(config, baselines, rows.append)
    cost.seconds += time.perf_counter() - began
    assert ended.status == "complete", ended
    cost.updates += columns[-1]
    cost.evaluations += len(columns)
    cost.update_s += rows[-1]["wall_s"]
    cost.evaluation_s += rows[-1]["evaluation_wall_s"]
    return rows


# --------------------------------------------------------------------------------------------------
# the real table


@dataclass(frozen=True)
class Trajectory:
    """One real trial of full length."""

    point: Point
    status: str
    rows: list[Row]


def nodes(spec: StudySpec, method: str, rates: int, weights: int) -> Iterator[Point]:
    """The grid's points, evenly on the log scale between the bounds of the demo's space.

    A method without w_r costs little, so its learning rates are twice as close.
    """
    ranges = searched(spec, method)
    sizes = {"learning_rate": rates if len(ranges) > 1 else 2 * rates - 1, "w_r": weights}
    values = [spread(p.low, p.high, p.scale, sizes[name]) for name, p in ranges.items()]
    for corner in itertools.product(*values):
        yield dict(zip(ranges, corner, strict=True))


def collect(
    spec: StudySpec, single: Any, baselines: Baselines, file: Path, rates: int, weights: int
) -> None:
    """Run the trials that the file lacks and append them."""
    known = {line["trial_id"] for line in read_lines(file) if "trial_id" in line}
    if not any(line.get("context") == single.context for line in read_lines(file)):
        append(file, {"context": single.context, "vanilla": dict(baselines.vanilla)})
    began, ran = time.perf_counter(), 0
    for method in METHODS:
        for point in nodes(spec, method, rates, weights):
            hyperparameters = spec.spaces[method].resolve(point)
            config = spec.trial_config(hyperparameters, method, 0, single.context)
            if config.id in known:
                continue
            rows: list[Row] = []
            ended = single.run(config, baselines, rows.append)
            about = {
                "trial_id": config.id,
                "method": method,
                "point": point,
                "status": ended.status,
            }
            append(file, about | {"rows": [dict(row) for row in rows]})
            ran += 1
            scores = " ".join(f"{row[OBJECTIVE]:.3f}" for row in rows)
            print(
                f"{time.perf_counter() - began:6.0f} s {method} {shown(point)}: {ended.status}, "
                f"{scores}",
                flush=True,
            )
    print(f"table: {ran} trajectories run, {len(known)} were there")


def append(file: Path, line: dict[str, Any]) -> None:
    with open(file, "a") as out:
        out.write(json.dumps(line) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a last one that a kill has torn is cut off."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def shown(point: Point) -> str:
    return " ".join(f"{name}={value:.3g}" for name, value in point.items())


# --------------------------------------------------------------------------------------------------
# the surrogate


class Surface:
    """A method's rows at any learning rate and w_r, from the table.

    Their cost is from the table's medians.
    """

    def __init__(self, trajectories: list[Trajectory], vanilla: Row, rule: Rule) -> None:
        self.baselines = Baselines(vanilla)
        self.rule = rule
        names = list(trajectories[0].point)
        self.axes = {name: sorted({t.point[name] for t in trajectories}) for name in names}
        self.updates = [row["update"] for row in max(trajectories, key=lambda t: len(t.rows)).rows]
        self._columns = ("forget_nll", OBJECTIVE) if rule == "score" else LOSSES
        # [*axes, updates, columns]; a row that a diverged trial never had is nan, and so is all
        # that touches it.
        values = np.full(
            [*map(len, self.axes.values()), len(self.updates), len(self._columns)], np.nan
        )
        for trajectory in trajectories:
            place = tuple(self.axes[name].index(trajectory.point[name]) for name in names)
            for i, row in enumerate(trajectory.rows):
                values[place][i] = [math.log(row[name]) for name in self._columns]
        axes = [np.log(axis) for axis in self.axes.values()]
        self._logs = RegularGridInterpolator(
            axes, values, bounds_error=False, fill_value=None
        )  # a bound may be off by an ulp
        long = [t for t in trajectories if t.status == "complete"]
        self.update_s = statistics.median(t.rows[-1]["wall_s"] / self.updates[-1] for t in long)
        self.evaluation_s = statistics.median(
            t.rows[-1]["evaluation_wall_s"] / len(t.rows) for t in long
        )

    @property
    def trajectory_s(self) -> float:
        """Seconds of a trial of full length, with all evaluations."""
        return self.updates[-1] * self.update_s + len(self.updates) * self.evaluation_s

    def rows(self, point: Point) -> dict[int, Row]:
        """Rows by update; they end before the first that is not finite."""
        found: dict[int, Row] = {}
        values = np.exp(self._logs([[math.log(point[name]) for name in self.axes]])[0])
        for update, of_update in zip(self.updates, values.tolist(), strict=True):
            if not all(map(math.isfinite, of_update)):
                break
            row = dict(zip(self._columns, of_update, strict=True)) | {"update": update}
            found[update] = row if self.rule == "score" else scored(row, self.baselines)
        return found

    def best(self) -> tuple[float, Point, int]:
        """The least score, its point and its update, at the nodes or, with losses, also between."""
        axes = self.axes
        if self.rule == "losses":
            axes = {
                name: sorted({*axis, *spread(axis[0], axis[-1], "log", FINE)[1:-1]})
                for name, axis in axes.items()
            }
        points = (
            dict(zip(axes, corner, strict=True)) for corner in itertools.product(*axes.values())
        )
        candidates = (
            (row[OBJECTIVE], point, update)
            for point in points
            for update, row in self.rows(point).items()
        )
        return min(candidates, key=lambda candidate: candidate[0])


def left_out(trajectories: list[Trajectory], vanilla: Row, rule: Rule) -> list[float]:
    """Relative errors of predicted scores within twice the best.

    Each score is predicted without the whole row or column of nodes that its node is in.
    """
    whole = Surface(trajectories, vanilla, rule)
    most = 2 * min(row[OBJECTIVE] for t in trajectories for row in t.rows)
    errors = []
    for name, axis in whole.axes.items():
        for value in axis[1:-1]:
            rest = Surface([t for t in trajectories if t.point[name] != value], vanilla, rule)
            for trajectory in trajectories:
                if trajectory.point[name] == value:
                    predicted = rest.rows(trajectory.point)
                    pairs = [
                        (row[OBJECTIVE], predicted.get(row["update"])) for row in trajectory.rows
                    ]
                    errors += [
                        abs(p[OBJECTIVE] / real - 1)
                        for real, p in pairs
                        if p is not None and real <= most
                    ]
    return errors


# --------------------------------------------------------------------------------------------------
# the searchers


@dataclass(frozen=True)
class Searcher:
    """One way to search.

    Without free steps, the numbers of steps are the table's updates: sampled, or the grid's.
    """

    name: str
    sampler: str
    free: bool = True
    scheduler: str = "none"
    grace_updates: int = 12
    """No trial is stopped before this update; the demo's value."""
    quasi_random_share: float = 0.0
    """Fraction of quasi-random trials among as many as the budget has trajectories.

    Such a search ends with the last of them. 0.25 is the default of studies, made for unbiased
    claims; the others here start with five random trials.
    """
    dense: bool = False
    """Whether the grid's values are the table's nodes, so that the best known one is on it."""


SEARCHERS = (
    Searcher("TPE + ASHA + free steps", "tpe", scheduler="asha"),
    Searcher("  the first quarter quasi-random", "tpe", scheduler="asha", quasi_random_share=0.25),
    Searcher("  no trial stopped before 24", "tpe", scheduler="asha", grace_updates=24),
    Searcher("TPE + median + free steps", "tpe", scheduler="median"),
    Searcher("TPE + past_best + free steps", "tpe", scheduler="past_best"),
    Searcher("TPE + free steps", "tpe"),
    Searcher("TPE, steps sampled", "tpe", free=False),
    Searcher("random + ASHA + free steps", "random", scheduler="asha"),
    Searcher("random + past_best + free steps", "random", scheduler="past_best"),
    Searcher("random + free steps", "random"),
    Searcher("random, steps sampled", "random", free=False),
    Searcher("grid of the demo + free steps", "grid"),
    Searcher("grid of the demo", "grid", free=False),
    Searcher("grid of the table's nodes", "grid", free=False, dense=True),
)


def spec_for(
    base: StudySpec, method: str, surface: AnySurface, searcher: Searcher, seed: int, budget: int
) -> StudySpec:
    """The demo study as the searcher would run it."""
    content = base.model_dump(mode="json")
    space = content["spaces"][method]
    content |= {"methods": [method], "spaces": {method: space}}
    if not searcher.free:
        space["parameters"]["steps"] = {"type": "choice", "choices": surface.updates}
        content["evaluation"] |= {
            "at": surface.updates[-1:]
        }  # and at the last of its own steps: one score per trial
    if searcher.dense:
        for name, axis in surface.axes.items():
            parameter = space["parameters"][name]
            parameter["grid"] = [
                min(max(value, parameter["low"]), parameter["high"]) for value in axis
            ]
    trials = budget if searcher.quasi_random_share else MOST_TRIALS
    content["search"] = {
        "sampler": searcher.sampler,
        "trials_per_method": None if searcher.sampler == "grid" else trials,
        "quasi_random_share": searcher.quasi_random_share,
        "scheduler": {"type": searcher.scheduler, "grace_updates": searcher.grace_updates},
        "seed": seed,
    }
    return StudySpec.model_validate(content)


@dataclass
class Replay:
    """Best score so far as the worker's seconds go by."""

    seconds: float = 0.0
    trials: int = 0
    improvements: list[tuple[float, float]] = field(default_factory=list)
    """Seconds and score."""

    def reached(self, score: float) -> float:
        """Seconds until a score at least as good; infinity if it never came."""
        return next((seconds for seconds, found in self.improvements if found <= score), math.inf)


def replay(spec: StudySpec, surface: AnySurface, budget_s: float, goal: float) -> Replay:
    """Search with one worker until the goal is reached, the budget spent, or no trial left."""
    search, pruner = Search(spec, "search_time"), Pruner(spec)
    record = Record(Header(), baselines={"vanilla": dict(surface.baselines.vanilla)})
    done, best, rule = Replay(), math.inf, ScoreRule.of(record, spec)
    while (
        done.seconds < budget_s and best > goal and (config := search.ask(done.trials)) is not None
    ):
        trial = Trial(done.trials, config.id, config.model_dump(mode="json"))
        record.trials[trial.number] = trial
        done.trials += 1
        began = done.seconds
        rows = surface.rows({name: trial.config[name] for name in surface.axes})
        status: Literal["complete", "pruned", "diverged"] = "complete"
        for evaluations, update in enumerate(config.evaluate_at, start=1):
            done.seconds = began + update * surface.update_s + evaluations * surface.evaluation_s
            if update not in rows:
                status = "diverged"
                break
            row = rows[update]
            trial.rows.append(row)
            if rule.is_settled(row, trial) and row[OBJECTIVE] < best and done.seconds <= budget_s:
                best = row[OBJECTIVE]
                done.improvements.append((done.seconds, best))
            if pruner.verdict(record, trial.number, row) is not None:
                status = "pruned"
                break
        trial.status = status
        search.tell(trial)
    return done


def read_table(
    spec: StudySpec, file: Path, method: str, rates: int, weights: int
) -> tuple[list[Trajectory], Row]:
    """A method's trajectories on the grid and the vanilla model's row.

    Raises:
        SystemExit: the file lacks some, or holds those of several states of model, data or
        evaluation.
    """
    lines = read_lines(file)
    vanilla = [line["vanilla"] for line in lines if "vanilla" in line]
    if len(vanilla) != 1:
        raise SystemExit(
            f"{file}: holds tables of {len(vanilla)} contexts, and one is needed; run `--only "
            "table` anew"
        )
    found = [
        Trajectory(x["point"], x["status"], x["rows"]) for x in lines if x.get("method") == method
    ]
    wanted = list(nodes(spec, method, rates, weights))
    chosen = [trajectory for trajectory in found if trajectory.point in wanted]
    if len(chosen) < len(wanted):
        raise SystemExit(
            f"{file}: has {len(chosen)} of {len(wanted)} trajectories of {method}; run `--only "
            "table`"
        )
    return chosen, vanilla[0]


def compare(
    base: StudySpec,
    method: str,
    trajectories: list[Trajectory],
    vanilla: Row,
    rule: Rule,
    seeds: int,
    budget: int,
) -> None:
    """Print a table: median and quartiles of the seconds over seeds, and how many never arrived."""
    surface = Surface(trajectories, vanilla, rule)
    best, point, update = surface.best()
    budget_s = budget * surface.trajectory_s
    size = " x ".join(f"{len(axis)} {name}" for name, axis in surface.axes.items())
    print(f"\n{method}: {size}, updates {surface.updates}; SURROGATE that interpolates {rule}")
    print(
        f"  best known score {best:.4f} at {shown(point)}, {update} steps; "
        f"{share_within(surface, best)}"
    )
    print(
        f"  an update {surface.update_s * 1000:.0f} ms, an evaluation {surface.evaluation_s:.2f} "
        "s, a full trajectory "
        f"{surface.trajectory_s:.1f} s; budget {budget_s:,.0f} s, {seeds} seeds"
    )
    print(f"  {ranks(trajectories)}")
    errors = np.sort(left_out(trajectories, vanilla, rule))
    if len(errors):
        median, most = np.quantile(errors, [0.5, 0.9])
        print(
            f"  error of {len(errors)} left-out scores within twice the best: median "
            f"{median:.0%}, 90 % {most:.0%}"
        )
    ranked(base, method, surface, SEARCHERS, best, seeds, budget)


def compare_tabular(folder: Path, domain: str, method: str, model: int, given: Any) -> None:
    """The same on a tabular benchmark, for one method on one trained model."""
    surface, spec = TabularSurface(folder, domain, method, model), tabular_study(method)
    print(f"\n{method}, {domain}, trained model {model}: {surface.said()}")
    searchers = [searcher for searcher in SEARCHERS if not searcher.dense]
    ranked(spec, method, surface, searchers, surface.best, given.seeds, given.budget)


def ranked(
    base: StudySpec,
    method: str,
    surface: AnySurface,
    searchers: Sequence[Searcher],
    best: float,
    seeds: int,
    budget: int,
) -> None:
    """Print a line for each searcher."""
    budget_s, goal = budget * surface.trajectory_s, best * (1 + TOLERANCES[0])
    print(
        f"  {'seconds to within':34}"
        + "".join(f"{tolerance:>33.0%}" for tolerance in TOLERANCES)
        + "   score at the end"
    )
    for searcher in searchers:
        runs = [
            replay(spec_for(base, method, surface, searcher, seed, budget), surface, budget_s, goal)
            for seed in range(seeds)
        ]
        end = statistics.median(run.improvements[-1][1] for run in runs) / best
        cells = [
            cell([run.reached(best * (1 + tolerance)) for run in runs]) for tolerance in TOLERANCES
        ]
        print(
            f"  {searcher.name:34}"
            + "".join(f"{text:>33}" for text in cells)
            + f"{end:12.2f} x best",
            flush=True,
        )


def ranks(trajectories: list[Trajectory]) -> str:
    """What early stopping sees of the real trajectories, in words.

    It is the place of the finally best one among all, by best score so far.
    """
    long = [t for t in trajectories if t.status == "complete"]
    standings = [list(itertools.accumulate((row[OBJECTIVE] for row in t.rows), min)) for t in long]
    best = min(standings, key=lambda standing: standing[-1])
    places = [sum(other[i] < best[i] for other in standings) + 1 for i in range(len(best))]
    at = ", ".join(
        f"{place} at {row['update']}" for place, row in zip(places, long[0].rows, strict=True)
    )
    return f"the best real trajectory's place among {len(standings)} by its best score so far: {at}"


def share_within(surface: Surface, best: float) -> str:
    """The fraction of the space that is good, on a fine grid, in words.

    A random point with free steps is good with that probability.
    """
    axes = [spread(axis[0], axis[-1], "log", FINE) for axis in surface.axes.values()]
    points = [dict(zip(surface.axes, corner, strict=True)) for corner in itertools.product(*axes)]
    least = [
        min((row[OBJECTIVE] for row in surface.rows(p).values()), default=math.inf) for p in points
    ]
    shares = [f"{np.mean(np.array(least) <= best * (1 + t)):.1%}" for t in TOLERANCES]
    return f"{', '.join(shares)} of the space within {', '.join(f'{t:.0%}' for t in TOLERANCES)}"


def cell(seconds: list[float]) -> str:
    """A cell in words, `120 (80-200), 5% never`; a seed that never arrived counts as the latest."""
    if all(map(math.isinf, seconds)):
        return "never"
    low, median, high = (
        number(value) for value in np.quantile(seconds, [0.25, 0.5, 0.75], method="inverted_cdf")
    )
    return f"{median} ({low}-{high}), {np.mean(np.isinf(seconds)):3.0%} never"


def number(seconds: float) -> str:
    return f"{seconds:,.0f}" if math.isfinite(seconds) else "never"


def main() -> None:
    """Run all parts, or one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table",
        type=Path,
        required=True,
        help="JSONL file of real trajectories, made or completed; or a tabular benchmark's folder",
    )
    parser.add_argument("--domain", default="shakespeare", help="of a tabular benchmark")
    parser.add_argument("--model", type=int, default=0, help="trained model of it")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="of it")
    parser.add_argument("--only", choices=["steps", "table", "search"])
    parser.add_argument("--rates", type=int, default=8, help="learning rates of the table")
    parser.add_argument("--weights", type=int, default=4, help="values of w_r of the table")
    parser.add_argument("--seeds", type=int, default=30, help="of the samplers")
    parser.add_argument(
        "--budget", type=int, default=60, help="of each search, in trajectories of full length"
    )
    parser.add_argument(
        "--steps-rates", type=int, default=3, help="learning rates of the part `steps`"
    )
    given = parser.parse_args()
    print(f"cores {os.cpu_count()}, load {os.getloadavg()[0]:.1f}", flush=True)
    if given.table.is_dir():
        for method in given.methods:
            compare_tabular(given.table, given.domain, method, given.model, given)
        return
    base = demo()
    if given.only != "search":
        from ray_unlearn.unlearn.single_trial import (
            Single,  # needs torch and a model, which a replay does not
        )

        single = Single(base, partial(print, flush=True))
        baselines = single.baselines()
        if given.only != "table":
            steps(base, single, baselines, METHODS[0], given.steps_rates)
        if given.only != "steps":
            collect(base, single, baselines, given.table, given.rates, given.weights)
    if given.only in (None, "search"):
        for method in METHODS:
            trajectories, vanilla = read_table(
                base, given.table, method, given.rates, given.weights
            )
            for rule in ("score", "losses"):
                compare(base, method, trajectories, vanilla, rule, given.seeds, given.budget)


if __name__ == "__main__":
    main()
