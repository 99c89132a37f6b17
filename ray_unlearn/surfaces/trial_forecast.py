"""What the evaluations to come of a running trial may still show.

The surfaces of the other trials say how a configuration goes on; the trial's own evaluations say
what its seed does to it, which all its rows share. Both are one Gaussian, so the rows to come are
drawn jointly, given those that are there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ray_unlearn.surfaces.component_fit import UNIT, Component
from ray_unlearn.surfaces.component_surface import ComponentSurface
from ray_unlearn.surfaces.trajectories import MOST_CHANGE, RUINED

Array = NDArray[np.float64]

DRAWS = 512
JITTER = 1e-9


def chance_below(
    surface: ComponentSurface,
    point: Array,
    seen: tuple[Array, Array],
    to_come: Array,
    score: float,
    seed: int,
) -> float:
    """The probability that an evaluation to come has a score below the one given.

    Args:
        surface: fitted to other trials.
        point: of the trial, unit coordinates [d].
        seen: its evaluations so far: log10 [r] of the sum of learning rates, and changes [r, 3].
        to_come: log10 [t] of the sum of learning rates at the evaluations to come.
        score: to be beaten.
        seed: of draws.
    """
    efforts, changes = seen
    ruined = ~np.isfinite(changes).all(1) | (np.abs(changes) >= RUINED).any(1)
    if ruined.any():
        return 0.0  # nothing that training further could bring back
    all_efforts = np.concatenate([efforts, to_come])[None]
    at = surface.fit.inputs_at(point[None], all_efforts, surface.axes, surface.group)[0]
    rng = np.random.default_rng([seed, 7])
    drawn = np.stack(
        [
            _drawn(component, surface.fit.inputs, at, own, rng)
            for component, own in zip(surface.fit.components, changes.T, strict=True)
        ]
    )
    rules = surface.trajectories.score
    scores = rules.of(drawn, rules.chosen_by)
    return float((scores.min(0) < score).mean())


def _drawn(
    component: Component, inputs: Array, at: Array, own: Array, rng: np.random.Generator
) -> Array:
    """Draws [t, DRAWS] of a change at the last inputs, given its values `own` [r] at the first."""
    r = len(own)
    middle = component.centre + component.growth.at(at[:r])
    targets = (
        np.arcsinh(np.clip(own, -MOST_CHANGE, MOST_CHANGE) / UNIT) - middle
    ) / component.scale
    parts: Sequence[NDArray[np.int_]] = np.array_split(np.arange(DRAWS), len(component.settings))
    drawn = []
    for setting, part in zip(component.settings, parts, strict=True):
        across = setting.covariances(at, inputs)
        mean = across @ setting.weights
        covariance = setting.covariances(at, at)
        covariance -= across @ cho_solve((setting.cholesky, True), across.T)
        covariance += setting.trial
        covariance[np.diag_indices_from(covariance)] += setting.noise + JITTER
        covariance *= component.stretch**2
        if r:
            known = cho_factor(covariance[:r, :r], lower=True)
            cross = covariance[r:, :r]
            mean = mean[r:] + cross @ cho_solve(known, targets - mean[:r])
            covariance = covariance[r:, r:] - cross @ cho_solve(known, cross.T)
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        drawn.append(mean[:, None] + root @ rng.standard_normal((len(root), len(part))))
    curves = component.about(at[r:], np.concatenate(drawn, axis=1))
    limit = np.arcsinh(MOST_CHANGE / UNIT)
    return np.asarray(UNIT * np.sinh(np.clip(curves, -limit, limit)))
