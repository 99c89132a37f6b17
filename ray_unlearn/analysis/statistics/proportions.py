"""A proportion of trials with its exact confidence interval."""

from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Proportion:
    """Successes out of `n` trials, with a 95 % Clopper-Pearson interval."""

    successes: int
    n: int
    fraction: float
    low: float
    high: float


def proportion_of(successes: int, n: int) -> Proportion:
    """The proportion of `successes` among `n` > 0 trials.

    The Clopper-Pearson interval (Biometrika 26, 1934) is exact, and is never empty at 0 or 1.
    """
    assert 0 <= successes <= n
    assert n > 0
    low = float(beta.ppf(0.025, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, n - successes)) if successes < n else 1.0
    return Proportion(successes, n, successes / n, low, high)
