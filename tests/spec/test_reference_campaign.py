"""The reference campaign: nine worlds from one file, in passes, each a study that can run."""

import sys
from pathlib import Path

import pytest

from ray_unlearn.spec.study_file import load_study

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from reference_campaign import DOMAINS, MODEL_SEEDS, TEMPLATE, World, passes, world_study


def test_its_first_world_is_the_file_itself(tmp_path: Path) -> None:
    """A study that is made from the file must go on with one that was run from it."""
    made = world_study(World("shakespeare", 0), tmp_path, 12)
    assert made.results_digest() == load_study(TEMPLATE).results_digest()


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_world_is_a_study_of_its_own_domain_and_model(domain: str, tmp_path: Path) -> None:
    made = [world_study(World(domain, seed), tmp_path, 12) for seed in MODEL_SEEDS]
    assert {study.data.source for study in made} == {f"demo:{domain}"}
    assert [study.model.source for study in made] == [
        f"demo:{domain}",
        f"demo:{domain}#1",
        f"demo:{domain}#2",
    ]
    assert [study.search.seed for study in made] == [0, 1, 2], "else all try the same points"
    assert {study.evaluation.strength for study in made} == {"both"}
    assert len({study.results_digest() for study in made}) == len(MODEL_SEEDS)


def test_all_domains_have_trials_before_one_has_all() -> None:
    """A campaign that is cut short is still one of three domains."""
    order = list(passes(12, MODEL_SEEDS, DOMAINS))
    assert [(world.name, trials) for world, trials in order[:4]] == [
        ("shakespeare-0", 4),
        ("stdlib-0", 4),
        ("latex-0", 4),
        ("shakespeare-0", 8),
    ]
    reached = dict(order)
    assert len(reached) == 9
    assert set(reached.values()) == {12}
