"""Planted mistakes are noticed by the simulation. If these fail, it would not notice them in a
change of the code either.
"""

from collections.abc import Iterator

import pytest
from campaign import one
from mutants import MUTANTS, RARE
from mutation import Mutant

SEEDS = 200
LATE = {
    "a file that replaces another is not synced",
    "that an event exists counts as success",
    "who finds a number taken goes on with the next one",
    "the lease is ignored",
    "a joined object is trusted as it is",
}
"""Killed by none of the first ten seeds."""


def _marked() -> Iterator[object]:
    for mutant in MUTANTS:
        marks = (pytest.mark.slow,) if mutant.name in LATE else ()
        yield pytest.param(mutant, id=f"{mutant.world}: {mutant.name}", marks=marks)


@pytest.mark.parametrize("mutant", _marked())
def test_a_planted_mistake_is_noticed(mutant: Mutant) -> None:
    with mutant.planted():
        if mutant.harmless:
            return  # it can still be planted; decision 27 says why nobody can notice
        killed = next((seed for seed in range(SEEDS) if one(mutant.world, seed).failing), None)
    assert killed is not None


@pytest.mark.parametrize("mutant", RARE, ids=lambda mutant: mutant.name)
def test_a_rare_mistake_can_still_be_planted(mutant: Mutant) -> None:
    """Else it says nothing, should somebody look for it in a long run."""
    with mutant.planted():
        pass


def test_there_are_enough_mistakes_and_few_are_harmless() -> None:
    harmful = [mutant for mutant in MUTANTS if not mutant.harmless]
    assert len(harmful) >= 20
    assert len({(mutant.world, mutant.name) for mutant in MUTANTS}) == len(MUTANTS)
