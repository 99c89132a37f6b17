"""The strength at which a trained state meets a forget NLL, found with few passes.

A pass is over the forget set alone. The NLL rises above vanilla's about as a power of the strength,
from linear (a small change) to steep (a ruined model), over orders of magnitude. So the root is
looked for in logarithms of both, where such a curve is a straight line:

    x = log a        y = log((NLL(a) - NLL(0)) / (target - NLL(0)))        y = 0 is wanted
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ray_unlearn.store.schema import AS_TRAINED
from ray_unlearn.store.target import TARGET_TOLERANCE, ForgetTarget

MOST_STRENGTH = 2.0
"""Beyond, a mixed model is more extrapolation than training."""
MOST_PASSES = 7
FIRST_POWER = 2.0
"""Taken until two points tell: near a minimum of the training loss the rise is quadratic."""

Point = tuple[float, float]
"""x and y."""


@dataclass(frozen=True)
class Calibrated:
    """The target is met; the weights are at this strength."""

    strength: float
    passes: int


@dataclass(frozen=True)
class OutOfReach:
    """No strength was found; `reason` is for people."""

    reason: str
    passes: int


def strength_for(
    nll_at: Callable[[float], float], trained_nll: float, target: ForgetTarget
) -> Calibrated | OutOfReach:
    """Find a in (0, 2] with |forget NLL at a - target| <= 0.005 nats/token.

    Secant, then inverse quadratic interpolation, kept in the bracket by bisection.

    Args:
        nll_at: sets a strength and returns the forget NLL there, nats/token; one pass. Values that
            are not finite count as above the target.
        trained_nll: at strength 1.
        target: of the study.
    """
    if abs(trained_nll - target.nll) <= TARGET_TOLERANCE:
        return Calibrated(AS_TRAINED, 0)
    if target.vanilla_nll >= target.nll - TARGET_TOLERANCE:
        return OutOfReach("the vanilla model meets the target already", 0)
    bracket = _Bracket(target)
    bracket.take(AS_TRAINED, trained_nll)
    for passes in range(1, MOST_PASSES + 1):
        if bracket.low >= MOST_STRENGTH:
            return OutOfReach(
                f"the target is not reached at strength {MOST_STRENGTH:g}", passes - 1
            )
        strength = bracket.next()
        nll = nll_at(strength)
        if abs(nll - target.nll) <= TARGET_TOLERANCE:
            return Calibrated(strength, passes)
        bracket.take(strength, nll)
    return OutOfReach(
        f"not met to {TARGET_TOLERANCE:g} nats/token in {MOST_PASSES} passes", MOST_PASSES
    )


class _Bracket:
    """Strengths between which the target is met, and what is known of the curve."""

    def __init__(self, target: ForgetTarget) -> None:
        self._target = target
        self.low = 0.0
        """The greatest strength below the target."""
        self._high = math.inf
        """The least strength above it."""
        self._points: list[Point] = []

    def take(self, strength: float, nll: float) -> None:
        """A pass."""
        start, wanted = self._target.vanilla_nll, self._target.nll
        if nll < wanted:
            self.low = max(self.low, strength)
        else:
            self._high = min(self._high, strength)
        if math.isfinite(nll) and nll > start:
            y = math.log((nll - start) / (wanted - start))
            self._points.append((math.log(strength), y))

    def next(self) -> float:
        """Where to look next: as the curve says, or in the middle if that is outside."""
        guess = _root(sorted(self._points, key=lambda point: abs(point[1]))[:3])
        if self._high == math.inf:
            return min(guess, MOST_STRENGTH) if guess > self.low else MOST_STRENGTH
        middle = math.sqrt(self.low * self._high) if self.low else self._high / 4
        return guess if self.low < guess < self._high else middle


def _root(points: list[Point]) -> float:
    """Strength at y = 0 of the curve through up to three points; NaN if they say nothing.

    The point nearest the root comes first.
    """
    if not points:
        return math.nan
    (x, y), *others = points
    if not others:
        return math.exp(x - y / FIRST_POWER)
    for known in (others, others[:1]):
        ys = [y, *(other[1] for other in known)]
        rising = all((a[0] - b[0]) * (a[1] - b[1]) > 0 for a in points for b in known if a != b)
        if len(set(ys)) == len(ys) and rising:
            return math.exp(_at_zero([(x, y), *known]))
    return math.nan


def _at_zero(points: list[Point]) -> float:
    """x at y = 0 of the polynomial in y through the points (Lagrange)."""
    return sum(
        x * math.prod(other / (other - y) for _, other in points if other != y) for x, y in points
    )
