"""Planted trajectories.

How learning rate and updates trade off in them, and what the stopping rule costs, is known.
"""

import numpy as np
import pandas as pd

TAU = 0.1
DOING_NOTHING = 6 * TAU
EVALUATIONS = 5


def planted_efforts(
    kappa: float,
    seed: int,
    *,
    trials: int = 100,
    groups: int = 1,
    updates: tuple[int, ...] = (4, 8, 16, 32, 64),
    noise: float = 0.05,
    trial_noise: float = 0.0,
    pruned: bool = False,
    separate: bool = False,
) -> pd.DataFrame:
    """Scores on learning rates of two decades: 0.7 with too little effort, 0.1 in the valley, up to
    30 beyond.

    noise, trial_noise: SDs of evaluations and of trials (their other hyperparameters).
    pruned: trials end past their best, by the rule of `execution.early_stopping`.
    separate: learning rate and steps have an optimum each.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for g in range(groups):
        for t in range(trials):
            rate = 10 ** rng.uniform(-5.5, -3.5)
            offset, rises, before = trial_noise * rng.standard_normal(), 0, np.inf
            for update in updates:
                effort = np.log10(rate / 10**-4.5) + kappa * np.log10(update / 12) + 0.15 * (g - 1)
                mean = (
                    0.7
                    - 0.6 / (1 + np.exp(-8 * (effort + 0.45)))
                    + 0.2 * (np.exp(3 * max(0.0, effort)) - 1)
                )
                if separate:
                    mean = (
                        0.1 + 0.5 * np.log10(rate / 10**-4.5) ** 2 + 0.1 * np.log2(update / 12) ** 2
                    )
                score = mean + offset + noise * rng.standard_normal()
                if mean > 2:
                    score = min(30.0, mean * np.exp(0.5 * rng.standard_normal()))
                rows.append((f"{g}-{t}", f"g{g}", rate, update, score))
                rises = rises + 1 if score > before and effort > 0 else 0
                before = score
                if pruned and rises >= 2:
                    break
    return pd.DataFrame(rows, columns=["trial", "group", "learning_rate", "update", "response"])


def planted_stops(
    price: np.ndarray, seed: int, *, groups: int = 1, noise: float = TAU / 2
) -> pd.DataFrame:
    """Trials of five evaluations; the rule stops each at the third, which costs `price` [n].

    The second one is the best and scores 0, the others are far worse. A price that is not finite
    is a ruined model, without a score.
    """
    rng = np.random.default_rng([seed, 11])
    n, update = len(price), np.arange(1, EVALUATIONS + 1)
    clean = np.full((n, EVALUATIONS), 5.0)
    clean[:, 1], clean[:, 2] = 0.0, price
    halves = [clean + noise * rng.standard_normal(clean.shape) for _ in range(2)]
    score, selection = (np.where(np.isfinite(half), half, np.nan).ravel() for half in halves)
    return pd.DataFrame(
        {
            "trial": np.repeat(np.arange(n), EVALUATIONS),
            "group": np.repeat(np.arange(n) % groups, EVALUATIONS).astype(str),
            "update": np.tile(update, n),
            "forget_nll": np.tile(update / EVALUATIONS, n),
            "target_nll": 0.5,
            "score": score,
            "score_selection": selection,
        }
    )
