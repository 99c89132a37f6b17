"""Planted mistakes are noticed by the simulation. If these fail, it would not notice them in a
change of the code either.
"""

from collections.abc import Iterator

import pytest
from campaign import one
from mutants import MUTANTS, RARE
from mutation import Mutant

SEEDS = 200
QUICK = {
    "a line is not synced",
    "a torn last line is not cut",
    "an event is written whether there is one or not",
    "that an event exists counts as success",
    "a second `run` begins the study anew",
    "a lane goes on before its row is dealt with",
}
"""Killed by one of the first seeds."""


def _marked() -> Iterator[object]:
    for mutant in MUTANTS:
        marks = () if mutant.name in QUICK else (pytest.mark.slow,)
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
