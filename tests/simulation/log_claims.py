"""What the log by number claims, checked at every step of the small model."""

from log_state import ABSENT, DAMAGED, LOST, OPEN, REOPENED, RUN, State, is_marked


def broken(before: State, what: tuple[object, ...], after: State) -> str:
    """The first claim that this step breaks, in words; empty if it breaks none."""
    return (
        _number_changed(before, what, after)
        or _wrongly_acknowledged(before, after)
        or _two_writers(after)
        or _joined_differs(after)
        or _never_reopened(after)
    )


def _number_changed(before: State, what: tuple[object, ...], after: State) -> str:
    """A number has one content for ever, and comes right after the one before it.

    So what any reader has seen is the beginning of whatever any reader will see.
    """
    if before.log == after.log or str(what[0]).startswith("DAMAGE"):
        return ""
    if ABSENT in after.log[len(before.log) :]:
        return f"number {len(before.log)} is absent, and there is a later one"
    for number, (was, now) in enumerate(zip(before.log, after.log, strict=False)):
        if was == now or (ABSENT in (was, now) and before.harm is None):
            continue  # after joining, the joined copy tells (`_joined_differs`)
        if was in (ABSENT, DAMAGED):
            if now not in (LOST, before.harm.event):
                return f"number {number} was damaged and comes back as another event"
        elif before.acknowledged >> number & 1:
            return f"the acknowledged event {number} is replaced by another"
    return ""


def _wrongly_acknowledged(before: State, after: State) -> str:
    """Who is told that its event is there finds it there, and no other session before it."""
    for was, now in zip(before.processes, after.processes, strict=True):
        if was == now or now[0] not in OPEN or was[0] not in ("session", "append", "reopen"):
            continue
        number = was[1] if was[0] == "session" else was[2]
        if now[2] != number + 1 or not number < len(after.log) or after.log[number] < 0:
            continue
        event = after.log[number] % REOPENED
        if (was[0] == "session" and not was[2]) or (was[0] != "session" and event != was[1]):
            return f"number {number} is acknowledged to a process, and is another's event"
        between = after.log[event // 2 + 1 : number]
        if any(other % REOPENED != event for other in between if other >= 0):
            return f"event {number} is acknowledged to a writer behind another's session event"
    return ""


def _two_writers(state: State) -> str:
    writers = [one for one in state.processes if one[0] in OPEN and one[2] == len(state.log)]
    if len(writers) > 1:
        return f"two processes are open, and either may be acknowledged number {len(state.log)}"
    return ""


def _joined_differs(state: State) -> str:
    for at, content in enumerate(state.joined):
        if not isinstance(content, tuple) or is_marked(state, at):
            continue
        for number, event in enumerate(content, at * RUN):
            if state.log[number] not in (event, ABSENT, DAMAGED):
                return f"number {number} alone is another event than in its joined copy"
    return ""


def _never_reopened(state: State) -> str:
    """Nobody goes on from an event that others read as lost, with its trials not reopened."""
    if LOST not in state.log:
        return ""
    reopened = max((at for at, event in enumerate(state.log) if event >= REOPENED), default=-1)
    if reopened < 0:
        return "an event is lost, the log can be read, and its trials are not reopened"
    if state.harm.relied > reopened:
        return (
            f"the process that opened with event {state.harm.relied} has read event "
            f"{state.harm.number} whole, others read it as lost, and its trials are not reopened"
        )
    return ""
