"""Numbers as they stand in a guidelines file."""

import math


def pair(interval: tuple[float, float] | None) -> list[float | None] | None:
    """An interval, rounded."""
    return None if interval is None else [rounded(interval[0]), rounded(interval[1])]


def rounded(value: float | None) -> float | None:
    """Six significant digits, so that the last bits of another machine's arithmetic do not show;
    null if not finite."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
