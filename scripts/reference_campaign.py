"""Run the reference campaign, or go on with it: three domains x three trained models.

    nice -n 19 python scripts/reference_campaign.py [--results results/reference] [--trials 12]

Each world is a study of its own, made from studies/reference/world.yaml. The campaign goes in
passes, so that all domains have as many trials at any time: four of each method with the first
trained model in each domain, then four more, then the next trained model. Stopped or killed at any
time, the same command goes on where it was; trials that have ended are never run again.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

import ray_unlearn as ru
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec

TEMPLATE = Path(__file__).parents[1] / "studies" / "reference" / "world.yaml"
DOMAINS = ("shakespeare", "stdlib", "latex")
MODEL_SEEDS = (0, 1, 2)
PIECE = 4
"""Trials of each method that a world is given at a time."""


@dataclass(frozen=True)
class World:
    """A domain and a model trained on it."""

    domain: str
    seed: int

    @property
    def name(self) -> str:
        """The study's folder."""
        return f"{self.domain}-{self.seed}"

    @property
    def model(self) -> str:
        """As study files write it; the first trained model has no number."""
        return f"demo:{self.domain}" + (f"#{self.seed}" if self.seed else "")


def world_study(world: World, folder: Path, trials: int) -> StudySpec:
    """The study of one world, with so many trials of each method; its file is written beside it."""
    content = yaml.safe_load(TEMPLATE.read_text())
    content["name"] = f"reference-{world.name}"
    content["model"]["source"] = world.model
    content["data"]["source"] = f"demo:{world.domain}"
    content["search"]["trials_per_method"] = trials
    content["search"]["seed"] = world.seed  # each trained model fills the gaps of the others
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{world.name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_study(file)


def passes(
    trials: int, seeds: Sequence[int], domains: Sequence[str]
) -> Iterator[tuple[World, int]]:
    """Which world to bring to how many trials of each method, in order."""
    for seed in seeds:
        for reached in (*range(PIECE, trials, PIECE), trials):
            yield from ((World(domain, seed), reached) for domain in domains)


def main() -> None:
    """Run what is missing, and print where the studies are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/reference"))
    parser.add_argument("--trials", type=int, default=12, help="of each method in each world")
    parser.add_argument("--seeds", type=int, nargs="+", default=MODEL_SEEDS, help="trained models")
    parser.add_argument("--domains", nargs="+", default=DOMAINS, choices=DOMAINS)
    given = parser.parse_args()
    for world, trials in passes(given.trials, given.seeds, given.domains):
        place = given.results / world.name
        study = ru.run(world_study(world, given.results / "files", trials), place, resume=True)
        ended = study.last_run
        assert ended is not None
        if ended.interrupted:
            sys.exit(f"stopped in {place}; the same command goes on")
        print(f"{place}: {trials} trials of each method; {ended.counts}", flush=True)
    places = " ".join(sorted({str(given.results / w.name) for w, _ in passes(
        given.trials, given.seeds, given.domains)}))  # fmt: skip
    print(f"done; report with: ray-unlearn report {places} -o {given.results / 'report'}")


if __name__ == "__main__":
    main()
