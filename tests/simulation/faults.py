"""Faults that a seed decides on, counted by kind, switched off one by one to shrink a failure."""

import random
from collections import Counter
from collections.abc import Mapping


class Faults:
    """What goes wrong, and when.

    Args:
        seed: of all decisions.
        rates: probability of each kind, at each occasion for it.
        allowed: numbers of the faults that happen, of those that the seed decides on; None: all.
    """

    def __init__(
        self, seed: int, rates: Mapping[str, float], allowed: frozenset[int] | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.rates = dict(rates)
        self.on = True
        self.counts: Counter[str] = Counter()
        self.drawn = 0
        self.fired: list[int] = []
        """Numbers of the faults that happened."""
        self._allowed = allowed

    def strike(self, *kinds: str) -> str:
        """The kind of fault that happens at this occasion; empty for none."""
        if not self.on:
            return ""
        drawn = self.random.random()
        for kind in kinds:
            drawn -= self.rates.get(kind, 0.0)
            if drawn < 0:
                return kind if self.happens(kind) else ""
        return ""

    def happens(self, kind: str) -> bool:
        """Count a fault that was decided on; False if it is switched off."""
        number = self.drawn
        self.drawn += 1
        if self._allowed is not None and number not in self._allowed:
            return False
        self.counts[kind] += 1
        self.fired.append(number)
        return True
