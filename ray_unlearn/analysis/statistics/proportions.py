"""A share of trials with its Clopper-Pearson interval (Biometrika 26, 1934): exact, never empty at
0 or 1."""

from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Share:
    """Successes out of n, with a 95 % interval."""

    successes: int
    n: int
    share: float
    low: float
    high: float


def share_of(successes: int, n: int) -> Share:
    """The share of `successes` among `n` > 0 trials."""
    assert 0 <= successes <= n
    assert n > 0
    low = float(beta.ppf(0.025, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(0.975, successes + 1, n - successes)) if successes < n else 1.0
    return Share(successes, n, successes / n, low, high)
