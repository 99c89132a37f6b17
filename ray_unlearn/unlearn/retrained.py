"""What a row says of the exactly retrained model: TOFU's forget quality and MUSE's PrivLeak."""

from dataclasses import dataclass

from ray_unlearn.store.schema import HALVES, Metrics, Row
from ray_unlearn.unlearn.metrics import Floats
from ray_unlearn.unlearn.truth_ratio import forget_quality

ATTACK = "min_k_40"
"""MUSE's attack (Shi et al. 2024, arXiv 2407.06460, section 3.2)."""
LEAST_AUC = 1e-10


@dataclass(frozen=True)
class MeasuredRow:
    """A row, and what its document by document values are compared by."""

    row: Metrics
    log_ratios: Floats | None = None
    """[D], log truth ratios of the forget set; None where it has no wrong answers."""


@dataclass(frozen=True)
class Retrained:
    """The exactly retrained model's part in the comparisons that a study asks for."""

    log_ratios: Floats | None
    """[D], log truth ratios of the forget set, for forget quality."""
    leaks: dict[str, float] | None
    """By half, 1 - AUC, for PrivLeak."""

    @classmethod
    def of(cls, measured: MeasuredRow, priv_leak: bool) -> "Retrained":
        """That of the model that was measured."""
        return cls(measured.log_ratios, _leaks(measured.row) if priv_leak else None)


def compared(measured: MeasuredRow, retrained: Retrained | None) -> Metrics:
    """The row with the comparisons that it can be given."""
    row = dict(measured.row)
    if retrained is None:
        return row
    if measured.log_ratios is not None and retrained.log_ratios is not None:
        row["forget_quality"] = forget_quality(measured.log_ratios, retrained.log_ratios)
    if retrained.leaks is not None:
        own = _leaks(row)
        for half, leak in retrained.leaks.items():
            row[f"priv_leak_{half}"] = priv_leak(own[half], leak)
    return row


def priv_leak(leak: float, retrained: float) -> float:
    """100 (A - A_r) / A_r, A the AUC with which the held-out text is taken for the member.

    MUSE's AUC is one minus ours: what is still remembered has a small A, and PrivLeak below 0.
    """
    return 100 * (leak - retrained) / max(retrained, LEAST_AUC)


def _leaks(row: Row) -> dict[str, float]:
    return {half: 1 - row[f"mia_{ATTACK}_auc_{half}"] for half in HALVES}
