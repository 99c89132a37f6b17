"""Numbers as they are written: for people on a page, in sentences, and in `guidelines.json`.

On a page, `number` and its like use a real minus sign and thousands separators. In sentences,
`plain` does not: a value in them may be copied into a study file. In `guidelines.json`, `rounded`
values hide the last bits of another machine's arithmetic.
"""

import math
from typing import Any

MINUS = "\u2212"
DASH = "\u2013"


def number(value: float, digits: int = 3) -> str:
    """`value` to some significant digits: 0.0412, 3.1e-4, 76.5, 1,240, 1.2e7; a dash if NaN."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e5:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return (MINUS if value < 0 else "") + text


def whole_number(value: float) -> str:
    """An integer with thousands separators."""
    return DASH if value is None or math.isnan(value) else f"{int(value):,}"


def fixed(value: float, places: int = 2) -> str:
    """A number of known size (an AUC) to fixed places."""
    return DASH if value is None or math.isnan(value) else f"{value:.{places}f}".replace("-", MINUS)


def change(value: float) -> str:
    """A relative change with its sign: +3.1 %."""
    if value is None or math.isnan(value):
        return DASH
    percent = round(100 * value, 1) + 0.0  # + 0.0: no minus before a zero
    if abs(percent) >= 1000:
        return ("+" if percent > 0 else MINUS) + f"{number(abs(percent), 2)} %"
    return f"{percent:+.1f} %".replace("-", MINUS)


def percentage(value: float) -> str:
    """A fraction as a percentage: 12 %."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def plain(value: Any) -> str:
    """Three significant digits; 1e-4 rather than 0.0001 or 1e-04."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "?"
    if isinstance(value, bool | str):
        return str(value)
    text = f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return text


def counted(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rounded(value: float | None) -> float | None:
    """`value` to six significant digits, for `guidelines.json`; None where it is not finite."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def rounded_interval(interval: tuple[float, float] | None) -> list[float | None] | None:
    """Both ends of an interval, as `rounded`."""
    return None if interval is None else [rounded(interval[0]), rounded(interval[1])]
