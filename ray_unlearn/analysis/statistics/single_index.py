"""Fits of a response by one variable, log lr + kappa log other, and by both, on held-out trials.

The one-variable fit is a penalised cubic spline (P-splines, Eilers and Marx 1996) per group, with
one kappa for all groups, profiled over a grid: a single-index model (Haerdle, Hall and Ichimura
1993). The two-variable fit contains it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

FloatArray = NDArray[np.float64]

GRID_STEP = 0.05

FOLDS = 10

SPLINE_BASES = 16
"""Bases of the one-variable fit; the penalty decides how many act. Twelve blur a cliff so much that
kappa shifts by half an SD."""

_SECOND = np.diff(np.eye(SPLINE_BASES), n=2, axis=0)

ROUGHNESS: FloatArray = _SECOND.T @ _SECOND + 1e-8 * np.eye(SPLINE_BASES)
"""Squared second differences of the coefficients; the trace of ridge is for knot intervals without
rows."""

PAIR_BASES = (7, 4)
"""Bases of the two-variable fit: along the learning rate, along the other variable."""

SMOOTHING = 10.0 ** np.arange(-5.0, 1.1, 1.0)
"""Penalties per row on squared second differences of the spline's coefficients, from wiggly to
straight."""

DEVIATION = 10.0 ** np.arange(-5.0, -0.9, 1.0)
"""Ridge per row on the departure of the two-variable fit from the one-variable one; no departure is
tried as well."""


@dataclass(frozen=True)
class GroupRows:
    """Rows of one group by trial.

    Log learning rate, log of the other variable, response [n]; trial as 0 ... n_trials-1 [n].
    """

    rate: FloatArray
    other: FloatArray
    response: FloatArray
    trial: NDArray[np.int64]

    @property
    def n_trials(self) -> int:
        return int(self.trial[-1]) + 1


def _spline(x: FloatArray, n_bases: int) -> FloatArray:
    """B-splines [n, n_bases] on evenly spaced knots over the range of x [n].

    Cubic where there are four or more.
    """
    degree = min(3, n_bases - 1)
    low, width = x.min(), max(np.ptp(x), 1e-12)
    intervals = n_bases - degree
    knots = np.arange(-degree, intervals + degree + 1) / intervals
    # The last knot interval is closed on the left only.
    inside = np.clip((x - low) / width, 0.0, 1.0 - 1e-12)
    return BSpline.design_matrix(inside, knots, degree).toarray()


def _moments(
    group: GroupRows, kappa: float
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sums by trial for the one-variable fit: B'B [T, p, p], B'y [T, p], y'y [T], rows [T]."""
    basis = _spline(group.rate + kappa * group.other, SPLINE_BASES)
    first = np.flatnonzero(np.diff(group.trial, prepend=-1))
    y = group.response
    return (
        np.add.reduceat(basis[:, :, None] * basis[:, None, :], first),
        np.add.reduceat(basis * y[:, None], first),
        np.add.reduceat(y * y, first),
        np.diff(first, append=len(y)).astype(float),
    )


def _squares(
    gram: FloatArray, cross: FloatArray, total: FloatArray, coefficients: FloatArray
) -> FloatArray:
    """Sum of squared errors of `coefficients` [..., p] on rows with these moments."""
    fitted = np.einsum("...i,...ij,...j->...", coefficients, gram, coefficients)
    return np.maximum(total - 2 * (coefficients * cross).sum(-1) + fitted, 0.0)


def _weighted(weights: FloatArray, moments: FloatArray) -> FloatArray:
    """Moments [T, ...] summed over trials with weights [b, T]: [b, ...]."""
    return np.tensordot(weights, moments, axes=1)


def smoothing_penalties(
    groups: list[GroupRows], folds: list[NDArray[np.int64]], kappas: FloatArray
) -> list[float]:
    """Smoothing penalty of each group: the least error on held-out trials.

    At the kappa where that error is least over all groups.

    By trial and not by generalised cross-validation over rows: rows of a trial share its other
    hyperparameters.
    """
    errors = np.empty((len(groups), len(kappas), len(SMOOTHING)))
    for g, (group, fold) in enumerate(zip(groups, folds, strict=True)):
        out = (fold == np.arange(FOLDS)[:, None]).astype(float)
        for k, kappa in enumerate(kappas):
            gram, cross, total, n = _moments(group, kappa)
            held = [_weighted(out, moment)[:, None] for moment in (gram, cross, total, n)]
            trained = [
                moment.sum(axis=0) - part
                for moment, part in zip((gram, cross, total, n), held, strict=True)
            ]
            penalty = SMOOTHING[:, None, None] * trained[3][..., None, None] * ROUGHNESS
            right = np.broadcast_to(trained[1], penalty.shape[:-1])
            coefficients = np.linalg.solve(trained[0] + penalty, right[..., None])[..., 0]
            errors[g, k] = _squares(held[0], held[1], held[2], coefficients).sum(axis=0)
    rows = np.array([len(group.response) for group in groups])
    best = np.argmin((rows[:, None] * _log(errors.min(axis=2) / rows[:, None])).sum(axis=0))
    return [float(SMOOTHING[i]) for i in errors[:, best].argmin(axis=1)]


def log_error(group: GroupRows, kappa: float, weights: FloatArray, smoothing: float) -> FloatArray:
    """n log(mean squared error) of the one-variable fit, by weighting of the trials: [b]."""
    gram, cross, total, n = (_weighted(weights, moment) for moment in _moments(group, kappa))
    penalty = smoothing * n[:, None, None] * ROUGHNESS
    coefficients = np.asarray(
        np.linalg.solve(gram + penalty, cross[..., None])[..., 0], dtype=np.float64
    )
    return np.multiply(n, _log(_squares(gram, cross, total, coefficients) / n))


def _log(mean_squares: FloatArray) -> FloatArray:
    return np.log(np.maximum(mean_squares, 1e-12))


def lowest_kappas(kappas: FloatArray, criterion: FloatArray) -> FloatArray:
    """The kappa [b] at which each column of the criterion [kappas, b] is least.

    The vertex of the parabola around the least value.

    A mean squared error is closer to a parabola than its logarithm, which has a cusp where the fit
    is good.
    """
    best = criterion.argmin(axis=0)
    inner = np.clip(best, 1, len(kappas) - 2)
    before, at, after = (
        np.take_along_axis(criterion, (inner + i)[None], axis=0)[0] for i in (-1, 0, 1)
    )
    curvature = before - 2 * at + after
    shift = np.where(
        curvature > 0, 0.5 * (before - after) / np.where(curvature > 0, curvature, 1.0), 0.0
    )
    return np.where(
        best == inner, kappas[inner] + GRID_STEP * np.clip(shift, -0.5, 0.5), kappas[best]
    )


def held_out_errors(
    group: GroupRows, fold: NDArray[np.int64], kappas: FloatArray, smoothing: float
) -> tuple[FloatArray, FloatArray]:
    """Squared errors [n] of the one-variable and the two-variable fit on held-out trials.

    `kappas` are by fold.

    The two-variable fit adds a tensor product of splines with a ridge; the ridge for a fold is
    chosen on other folds.
    """
    shape = (PAIR_BASES[0], min(PAIR_BASES[1], len(np.unique(group.other))))
    pair = _spline(group.rate, shape[0])[:, :, None] * _spline(group.other, shape[1])[:, None, :]
    surface = pair.reshape(len(group.response), -1)
    p, q = SPLINE_BASES, surface.shape[1]
    row_fold = fold[group.trial]
    errors = np.empty((1 + len(DEVIATION), len(group.response)))
    for j in np.unique(row_fold):
        out = row_fold == j
        one = _spline(group.rate + kappas[j] * group.other, p)
        for i, ridge in enumerate((None, *DEVIATION)):
            basis = one if ridge is None else np.hstack([one, surface])
            penalty = np.zeros((basis.shape[1], basis.shape[1]))
            penalty[:p, :p] = smoothing * ROUGHNESS
            if ridge is not None:
                penalty[p:, p:] = ridge * np.eye(q)
            trained = basis[~out]
            gram = trained.T @ trained + len(trained) * penalty
            coefficients = np.linalg.solve(gram, trained.T @ group.response[~out])
            errors[i, out] = (group.response[out] - basis[out] @ coefficients) ** 2
    chosen = np.array([errors[:, row_fold != j].sum(axis=1).argmin() for j in range(FOLDS)])
    return errors[0], errors[chosen[row_fold], np.arange(errors.shape[1])]


def loss_by_trial(group: GroupRows, one: FloatArray, two: FloatArray) -> FloatArray:
    """What the one-variable fit loses in squared error, by trial [T].

    In units of the group's mean squared error.
    """
    return np.bincount(group.trial, weights=one - two) / max(float(one.mean()), 1e-12)
