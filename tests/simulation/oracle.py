"""What every world must keep: nothing acknowledged is lost, nothing is there twice, nothing is
unreadable. The oracle hears each event before it is written and again when it is acknowledged, and
compares with what openers and readers find.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable

UNREADABLE = (
    "damaged", "are missing", "is missing", "unknown kind", "two studies", "does not begin",
    "line is torn", "empty;", "never begun", "no header", "Traceback", "vanished",
)  # fmt: skip
"""Words of errors that a study must not show unless bytes were damaged."""

SAID = ("repair:", "are gone from the end", "cut a torn last line")
"""Words of the notes that tell of a loss."""


class Oracle:
    """The events of one study, as its writers know them.

    Args:
        clock: the time of the world.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.broken_at = math.inf
        """When a rule was broken first."""
        self.issued: set[str] = set()
        self.acknowledged: dict[str, int] = {}
        """Text of each acknowledged event, with its number, in order."""
        self.numbers: dict[int, str] = {}
        self.excused: set[str] = set()
        """Events whose bytes were damaged."""
        self.damaged = False
        self.created_at = math.inf
        """When somebody was told that the study is begun."""
        self._by = 0
        self.broken: Counter[str] = Counter()
        self.violations: list[str] = []

    def violated(self, rule: str, what: str) -> None:
        """A rule is broken."""
        if not self.violations:
            self.broken_at = self._clock()
        self.broken[rule] += 1
        self.violations.append(f"{rule}: {what}")

    def issue(self, text: str) -> None:
        """A writer is about to append it."""
        self.issued.add(text)

    def acknowledge(self, text: str, number: int) -> None:
        """`append` has returned."""
        other = self.numbers.get(number)
        if other is not None and not self.damaged:
            self.violated("two of a number", f"event {number} is {other} and {text}")
        self.numbers[number] = text
        self.acknowledged[text] = number

    def found(self, who: str, texts: Iterable[str], expected: Iterable[str]) -> None:
        """Somebody has read the study.

        Args:
            who: for messages.
            texts: the events that were found.
            expected: those that had been acknowledged before the reading began.
        """
        texts = list(texts)
        told = [text for text in texts if any(word in text for word in SAID)]
        texts = [text for text in texts if text.startswith("event ")]
        present = set(texts)
        if len(present) < len(texts):
            double = [text for text, count in Counter(texts).items() if count > 1]
            self.violated("duplicate", f"{who} found {double[:3]} twice")
        hidden = [text for text in expected if text in self.excused and text not in present]
        # A reader may have been overtaken by a repair, whose notes it finds at its next look. And
        # the notes may have been damaged before anybody read them.
        untold = any(word in text for text in self.excused for word in SAID)
        if hidden and not told and not untold and not who.startswith("a reader"):
            self.violated(
                "silent", f"{who} does not find {hidden[:3]}, damaged, and nobody says so"
            )
        strange = present - self.issued
        if strange:
            self.violated("invented", f"{who} found {sorted(strange)[:3]}, which nobody wrote")
        lost = [text for text in expected if text not in present and text not in self.excused]
        if lost:
            self.violated("lost", f"{who} does not find {lost[:3]} of {len(lost)}, acknowledged")
        in_order = [text for text in texts if text in self.acknowledged]
        numbers = [self.acknowledged[text] for text in in_order]
        if numbers != sorted(numbers) and not self.damaged:
            self.violated("out of order", f"{who} found {in_order[-3:]}")

    def begun(self, who: str, by: int) -> None:
        """Somebody has read who began the study, which nobody may begin anew."""
        self._by = self._by or by
        if by != self._by:
            self.violated("replaced", f"{who} finds the study of {by} in place of {self._by}'s")

    @property
    def created(self) -> bool:
        """Whether somebody was told that the study is begun."""
        return self.created_at < math.inf

    def create(self) -> None:
        """Somebody is told that the study is begun."""
        self.created_at = min(self.created_at, self._clock())

    def refused(self, who: str, error: Exception, began: float) -> bool:
        """An error of the package.

        Args:
            who: for messages.
            error: what was raised.
            began: when the reading began.

        Returns:
            Whether it says that the study is damaged.
        """
        text = str(error)
        bad = any(word in text for word in UNREADABLE)
        if bad and not self.damaged and self.created_at < began:
            self.violated("unreadable", f"{who}: {text[:200]}")
        return bad


def event_of(line: bytes) -> str:
    """The event of a line that is about to be damaged."""
    return line.partition(b'"text": "')[2].partition(b'"')[0].decode("utf-8", "replace")
