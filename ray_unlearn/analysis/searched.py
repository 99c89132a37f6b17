"""What was searched: axes from the search space or, without one, from the values seen."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ray_unlearn.analysis.read.cells import category_name
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.search_space import Choice, FloatRange, IntRange
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.surfaces.axes import Axis, KnownRange, Scale

LOG_BY_NAME = re.compile(r"(^|_)(lr|learning_rate|weight|lambda|coef|coeff|decay)($|_)|^w_")
"""Hyperparameters that act as factors: searched on a log scale by custom, however narrow the
range."""
LOG_BY_RATIO = 10.0
FROM_SPACE = (
    "quasi_random",
    "random",
    "grid",
    "full_space",
    "qmc",
    "sobol",
    "halton",
    "uniform",
    "randomsampler",
)


def space_axes(spec: StudySpec, method: str) -> dict[str, Axis]:
    """Axes of the hyperparameters that a study samples for a method, with the bounds of its space.

    With free steps, `steps` is none: the checkpoint rule decides. Conditional hyperparameters have
    their place here too; whether all trials have a value is seen in the trials. A narrowed study
    has the bounds of its narrowed space, which all its trials cover but those drawn from the full
    space; these lie outside. Choices are those of both.
    """
    full = (spec.full_spaces or {}).get(method)
    axes: dict[str, Axis] = {}
    for name, parameter in spec.spaces[method].sampled().items():
        if isinstance(parameter, (FloatRange, IntRange)):
            whole = isinstance(parameter, IntRange)
            axes[name] = Axis(
                name, parameter.scale, float(parameter.low), float(parameter.high), whole=whole
            )
        else:
            before = full.parameters.get(name) if full is not None else None
            choices = (*parameter.choices, *(before.choices if isinstance(before, Choice) else ()))
            axes[name] = Axis(
                name,
                "categorical",
                choices=tuple(dict.fromkeys(category_name(choice) for choice in choices)),
            )
    return axes


def conditions(spec: StudySpec, method: str) -> dict[str, dict[str, str]]:
    """Conditional hyperparameters: under which values of others they are sampled."""
    sampled = spec.spaces[method].sampled()
    return {
        name: {other: category_name(value) for other, value in parameter.when.items()}
        for name, parameter in sampled.items()
        if parameter.when
    }


def categorical(spec: StudySpec, method: str) -> tuple[str, ...]:
    """Hyperparameters that the study draws from a list."""
    return tuple(
        name
        for name, parameter in spec.spaces[method].sampled().items()
        if isinstance(parameter, Choice)
    )


def seen_axis(name: str, values: pd.Series, known_range: KnownRange | None = None) -> Axis | None:
    """The axis of a hyperparameter of which only values are known; None where it does not vary.

    A log scale when all values are positive and span more than a factor of 10, or the name is that
    of a factor.

    Args:
        name: of the hyperparameter.
        values: of its trials.
        known_range: bounds and scale, where the program that drew the values says them.
    """
    known = values.dropna()
    if not pd.api.types.is_numeric_dtype(values.dtype):
        choices = tuple(sorted(set(known.astype(str)) - {""}))
        return (
            Axis(name, "categorical", bounds_known=False, choices=choices)
            if len(choices) > 1
            else None
        )
    if known.empty or known.min() == known.max():
        return None
    low, high = float(known.min()), float(known.max())
    if known_range is not None and known_range.low <= low and high <= known_range.high:
        scale: Scale = "log" if known_range.log else "linear"
        return Axis(name, scale, known_range.low, known_range.high, whole=known_range.whole)
    log = low > 0 and (high > LOG_BY_RATIO * low or LOG_BY_NAME.search(name.lower()) is not None)
    whole = bool((known == np.floor(known)).all())
    return Axis(name, "log" if log else "linear", low, high, bounds_known=False, whole=whole)


def combined(axes: list[Axis]) -> Axis:
    """One axis for studies that searched a hyperparameter in different ranges.

    The range that all of them covered.

    A claim inside the intersection rests on every study; trials outside it stay in the table.
    Choices are united, since each trial needs one. Ranges without overlap are united too: there is
    no common ground to prefer.

    Raises:
        UserError: a range in one study and a list in another.
    """
    first = axes[0]
    if len({axis.scale == "categorical" for axis in axes}) > 1:
        raise UserError(
            f"`{first.name}` is a range in one study and a list of choices in another; report on "
            "them separately"
        )
    if first.scale == "categorical":
        choices = tuple(dict.fromkeys(choice for axis in axes for choice in axis.choices))
        return Axis(first.name, "categorical", choices=choices)
    low, high = max(axis.low for axis in axes), min(axis.high for axis in axes)
    if low >= high:
        low, high = min(axis.low for axis in axes), max(axis.high for axis in axes)
    log = low > 0 and any(axis.scale == "log" for axis in axes)
    return Axis(
        first.name, "log" if log else "linear", low, high, whole=all(axis.whole for axis in axes)
    )


def how_drawn(samplers: Iterable[str]) -> dict[str, str]:
    """Name of a sampler to `space`, `adaptive` or, where there is none, `unknown`.

    A name that is not known counts as adaptive: taking an adaptive sample for a random one would
    bias every curve.
    """
    drawn: dict[str, str] = {}
    for sampler in samplers:
        name = sampler.strip().lower().replace("-", "_").replace(" ", "_")
        drawn[sampler] = (
            "unknown" if name in ("", "unknown") else "space" if name in FROM_SPACE else "adaptive"
        )
    return drawn


def planned_samplers(spec: StudySpec, trials: pd.DataFrame) -> pd.Series:
    """`sampled_by` of each trial as an older ledger would have it.

    The first `quasi_random_share` of each method's trials are quasi-random.

    Args:
        trials: `number`, `method` and `sampled_by` of all trials of a study, failed ones among
            them; by number.
    """
    search = spec.search
    if search.sampler in ("qmc", "random", "grid"):
        return trials["sampled_by"].where(trials["sampled_by"] != "", search.sampler)
    reserved = round(search.quasi_random_share * (search.trials_per_method or 0))
    planned = np.where(
        trials.groupby("method").cumcount() < reserved, "quasi_random", search.sampler
    )
    return trials["sampled_by"].where(
        trials["sampled_by"] != "", pd.Series(planned, index=trials.index)
    )
