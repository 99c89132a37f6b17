"""A study's state in words, for every view of it."""

from collections import Counter
from datetime import datetime
from typing import Any

from ray_unlearn.store.live import in_words
from ray_unlearn.store.status import Status


def driver_in_words(found: Status, in_view: bool = False) -> str:
    """Whether, where and how well the study is running, in words; empty if that is unknown.

    Args:
        found: the state of the study.
        in_view: leave out lanes and time left, which the view shows elsewhere.
    """
    live = found.live
    if found.starting:
        return f"starting on {found.starting}: data, baselines and lanes come first"
    if live is None or found.age_s is None:
        return ""
    where = f"{live.host} (process {live.pid})"
    if found.driver == "ended":
        ended = f"{datetime.fromisoformat(live.time):%Y-%m-%d %H:%M} UTC"
        return f"not running; the last run was on {where} and ended {ended}"
    if found.driver == "silent":
        return (
            f"no sign of life of {where} for {in_words(found.age_s)}: killed, or cut off; "
            f"if it is gone: ray-unlearn resume {found.folder}"
        )
    said = [f"running on {where}, last sign of life {in_words(found.age_s)} ago"]
    if live.lanes and not in_view:
        said.append(f"{len(live.lanes)} lane(s): {lanes_in_words(live.lanes)}")
    if live.utilisation is not None:
        said.append(f"lanes busy {live.utilisation:.0%} of the time")
    if live.updates_per_s is not None and live.tokens_per_s is not None:
        said.append(f"{_rate(live.updates_per_s)} updates/s, {_rate(live.tokens_per_s)} tokens/s")
    if (left := time_left(found)) and not in_view:
        said.append(left)
    return "; ".join(said)


def waits(found: Status) -> list[str]:
    """What the lanes wait for, without repetition."""
    return (
        [text for text in dict.fromkeys(lane["waiting_for"] for lane in found.live.lanes) if text]
        if found.live
        else []
    )


def trials_in_words(found: Status) -> str:
    """Trials with an outcome, of how many: `3/12 trials`."""
    return f"{found.finished}/{'?' if found.asked_for is None else found.asked_for} trials"


def outcomes_in_words(found: Status) -> str:
    """How many trials ended in which way."""
    return (
        ", ".join(f"{count} {name}" for name, count in found.outcomes.items() if count)
        or "none finished"
    )


def unfinished_in_words(found: Status) -> str:
    """How many trials have no outcome yet."""
    under_way = found.driver in ("running", "starting")
    return f"{found.unfinished} {'under way' if under_way else 'unfinished'}"


def lanes_in_words(lanes: list[dict[str, Any]]) -> str:
    """How many lanes are in which state."""
    return ", ".join(
        f"{count} {state}" for state, count in Counter(lane["state"] for lane in lanes).items()
    )


def problems_of(found: Status) -> list[str]:
    """What cannot be observed or read now."""
    return [
        *(found.live.problems if found.live else []),
        *([found.problem] if found.problem else []),
    ]


def time_left(found: Status) -> str:
    """The time left by the driver's estimate; empty where it has none."""
    if (
        found.live is None
        or found.live.eta_s is None
        or found.age_s is None
        or found.driver != "running"
    ):
        return ""
    seconds = found.live.eta_s - found.age_s
    # No estimate below a second: the last trial takes longer than most.
    return f"about {in_words(seconds)} left" if seconds >= 1 else ""


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
