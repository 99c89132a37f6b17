"""What a study of so many trials can find out, before it is run.

From planted studies that were analysed as real ones are (`benchmarks/study_power.py`, which writes
the table): one method in one domain, a learning rate with good values over a quarter of its range.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ray_unlearn.analysis.searched import space_axes
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.surfaces.group_points import LEAST_TRIALS

TABLE = Path(__file__).with_name("study_power.csv")
SURE = 0.9
"""Share of studies from which a claim may be counted on."""


@dataclass(frozen=True)
class Measured:
    """One kind of planted study.

    curves: whether trials have several evaluations whose components are known.
    axes: hyperparameters searched.
    trials: of the method.
    noise: SD of a score between seeds, in tolerances.
    studies: planted.
    claimed: share of them that claimed the range.
    left_alone: share that claimed of a hyperparameter that matters less than the tolerance, or not
        at all, that it can be left alone.
    good: share whose recommended setting was within the tolerance of the best.
    """

    curves: bool
    axes: int
    trials: int
    noise: float
    studies: int
    claimed: float
    left_alone: float
    good: float


@dataclass(frozen=True)
class StudyPower:
    """What can be counted on, as probabilities.

    claimed: that a range is claimed of a hyperparameter that matters.
    left_alone: that one which hardly matters is said to be left alone; None where only one is
        searched.
    good: that the recommended setting is within the tolerance of the best.
    enough: trials at which a range is claimed with probability `SURE`; None: more than measured.
    """

    claimed: float
    left_alone: float | None
    good: float
    enough: int | None


def study_power(axes: int, trials: int, noise: float = 1.0, curves: bool = True) -> StudyPower:
    """What a study can find out about one method in one domain.

    Args:
        axes: hyperparameters searched; between numbers that were measured the greater counts, and
            more than the greatest count as that.
        trials: of the method, at least 1.
        noise: SD of a score between seeds in tolerances, 0.5 or 1.
        curves: whether trials are scored as trained, with several evaluations each.

    Raises:
        ValueError: no such noise, axes or trials.
    """
    if axes < 1 or trials < 1:
        raise ValueError(f"axes and trials are at least 1, not {axes} and {trials}")
    table = _table()
    own = table[(table["curves"] == curves) & (table["noise"] == noise)]
    if own.empty:
        raise ValueError(f"noise {noise:g} was not measured; {sorted(set(table['noise']))} were")
    measured = np.array(sorted(set(own["axes"])))
    nearest = measured[min(int(np.searchsorted(measured, axes)), len(measured) - 1)]
    own = own[own["axes"] == nearest].sort_values("trials")
    at = np.log(own["trials"].to_numpy(dtype=float))

    def probability(name: str) -> float:
        # More trials never tell less: what falls along the table is the luck of few studies.
        risen = np.maximum.accumulate(own[name].to_numpy(dtype=float))
        if trials < LEAST_TRIALS and name != "good":
            return 0.0  # no region rests on so few
        return float(np.interp(np.log(trials), at, risen))

    risen = np.maximum.accumulate(own["claimed"].to_numpy(dtype=float))
    sure = risen[-1] >= SURE
    return StudyPower(
        probability("claimed"),
        probability("left_alone") if axes > 1 else None,
        probability("good"),
        max(LEAST_TRIALS, math.ceil(math.exp(np.interp(SURE, risen, at)) - 1e-9)) if sure else None,
    )


@dataclass(frozen=True)
class MethodsPower:
    """What can be found out about methods that are searched alike.

    methods: their names.
    axes: hyperparameters searched of each.
    trials: of each.
    usual, quiet: with noise of one tolerance between seeds, and of half of one.
    """

    methods: tuple[str, ...]
    axes: int
    trials: int
    usual: StudyPower
    quiet: StudyPower


def powers_of(
    spec: StudySpec, trials: Mapping[str, int], evaluations: Mapping[str, int]
) -> tuple[MethodsPower, ...]:
    """What a study can find out, one entry for methods with as many axes and trials.

    Nothing of one that runs listed settings, or that searches nothing.

    Args:
        spec: the study.
        trials: of each method.
        evaluations: of a trial of each method.
    """
    if spec.search.sampler == "listed":
        return ()
    alike: dict[tuple[int, int, bool], list[str]] = {}
    for method in spec.methods:
        curves = (
            spec.evaluation.strength == "trained"
            and evaluations[method] > 1
            and not spec.objective.beyond_weights()
        )
        axes = len(space_axes(spec, method))
        if axes:
            alike.setdefault((axes, trials[method], curves), []).append(method)
    return tuple(
        MethodsPower(
            tuple(methods),
            axes,
            count,
            study_power(axes, count, 1.0, curves),
            study_power(axes, count, 0.5, curves),
        )
        for (axes, count, curves), methods in alike.items()
    )


def power_sentences(powers: Sequence[MethodsPower]) -> Iterator[str]:
    """What a study can find out, for people: two lines for methods that are searched alike."""
    for one in powers:
        whose = f"`{one.methods[0]}`" if len(one.methods) == 1 else f"{len(one.methods)} methods"
        searched = "1 hyperparameter" if one.axes == 1 else f"{one.axes} hyperparameters"
        found = one.usual
        alone = (
            ""
            if found.left_alone is None
            else f', "leave it alone" of one that hardly matters with {found.left_alone:.2f}'
        )
        yield (
            f"what {one.trials} trials of each of {whose} can find out ({searched} searched; seeds "
            f"differ by a tolerance): a good setting with probability {found.good:.2f}, a good "
            f"range with {found.claimed:.2f}{alone}"
        )
        if found.claimed < SURE:
            enough = [one.quiet.enough, found.enough]
            few, many = ("more than measured" if n is None else str(n) for n in enough)
            yield (
                f"a good range would take about {many} trials of a method ({few} where seeds "
                f"differ by half a tolerance)"
            )


@cache
def _table() -> pd.DataFrame:
    table = pd.read_csv(TABLE)
    assert list(table.columns) == [field.name for field in fields(Measured)]
    return table
