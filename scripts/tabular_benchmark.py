"""Build the tabular benchmark, or go on with it (docs/tabular_benchmark.md).

    nice -n 19 python scripts/tabular_benchmark.py --out results/table [--configurations 256]

Each domain and trained model is a study of its own (studies/tabular/world.yaml), with the same
quasi-random configurations in all. They grow in passes: 16 configurations of every method in every
world, then 32, 64 and so on, so that a table that was stopped is balanced. The first 8
configurations are run with two more seeds, calibrated and attacked, once 32 are there. After each
pass the table is written anew below `--out`/table. Stopped or killed at any time, the same command
goes on where it was; a trial that has ended is never run again.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from tabular_writing import ATTACKS, Source, numbered_points, write_tables

import ray_unlearn as ru
from ray_unlearn.api.attacking import attacked
from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import read_attacks

STUDIES = Path(__file__).parents[1] / "studies"
TEMPLATE = STUDIES / "tabular" / "world.yaml"
SMOLLM2 = "smollm2"
DOMAINS = ("shakespeare", "stdlib", "latex")
MODEL_SEEDS = (0, 1, 2)
FIRST_PIECE = 16
PART = 8
"""Configurations of each method that are run with more seeds, calibrated and attacked."""
PART_SEEDS = (1, 2)
PART_FROM = 32
"""Configurations of each method in every world before the part is run."""
PAUSES_S = (60, 300, 1800)
"""Before Ray is started again that did not start."""
UNFIT = ("dpo", "idk", "llmu", "residual_alignment")
"""Methods (and their kin) that need prompts and answers, or LoRA."""
MethodList = Literal["paper", "others"]


@dataclass(frozen=True)
class World:
    """A domain and a model trained on it, searched with one list of methods."""

    domain: str
    seed: int
    methods: MethodList = "paper"

    @property
    def name(self) -> str:
        """The study's folder."""
        return f"{self.domain}-{self.seed}" + ("" if self.methods == "paper" else "-others")

    @property
    def model(self) -> str:
        """As study files write it; the first trained model has no number."""
        return f"demo:{self.domain}" + (f"#{self.seed}" if self.seed else "")


def listed_methods(which: MethodList) -> list[str]:
    """The seven methods of Yao et al., or the others that plain text suffices for."""
    names = list(load_study(TEMPLATE).methods)
    if which == "paper":
        return names
    return [name for name in METHODS if name not in names and not name.startswith(UNFIT)]


def world_content(world: World, lanes: int) -> dict[str, Any]:
    """The study file of a world, without its trials."""
    content: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    if world.domain == SMOLLM2:
        real = yaml.safe_load((STUDIES / "smollm2_github.yaml").read_text())
        for entry in (*real["data"]["splits"].values(), real["model"]):
            entry |= {k: str(STUDIES / v) for k, v in entry.items() if str(v).startswith("../")}
        content |= {key: real[key] for key in ("model", "data", "space_overrides")}
        content["evaluation"] = {"every": 1}
        content["operations"]["checkpoint_every_s"] = 300
    else:
        content["model"]["source"] = world.model
        content["data"]["source"] = f"demo:{world.domain}"
    content["operations"]["lanes"] = lanes
    content["methods"] = listed_methods(world.methods)
    content["name"] = f"table-{world.name}"
    return content


def written_study(content: dict[str, Any], files: Path) -> StudySpec:
    """The study of this content, whose file is kept."""
    files.mkdir(parents=True, exist_ok=True)
    file = files / f"{content['name']}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_study(file)


def world_study(world: World, files: Path, configurations: int, lanes: int = 1) -> StudySpec:
    """The study of one world with so many configurations of each method."""
    content = world_content(world, lanes)
    content["search"]["trials_per_method"] = configurations
    return written_study(content, files)


def part_study(world: World, files: Path, study: ru.Study, lanes: int = 1) -> StudySpec:
    """The world's first configurations with more seeds, each trial calibrated too."""
    content = world_content(world, lanes)
    content["name"] += "-part"
    content["evaluation"]["strength"] = "both"
    content["search"] = {
        "sampler": "listed",
        "trial_seeds": list(PART_SEEDS),
        "points": {
            method: list(numbered_points(study, method).values())[:PART]
            for method in content["methods"]
        },
    }
    return written_study(content, files)


def passes(configurations: int) -> Iterator[int]:
    """How many configurations of each method every world has after each pass."""
    reached = FIRST_PIECE
    while reached < configurations:
        yield reached
        reached *= 2
    yield configurations


Say = Callable[[str], None]


def run_study(spec: StudySpec, place: Path) -> ru.Study:
    """Run a study, or go on with it; ends this process where it was interrupted.

    On a busy machine Ray may not start in time, and a build starts it for each study of each pass:
    it is tried again after a while.
    """
    from ray_unlearn.execution.ray_runtime import RayNotStarted

    for pause_s in (*PAUSES_S, None):
        try:
            study = ru.run(spec, place, resume=True)
            break
        except RayNotStarted:
            if pause_s is None:
                raise
            time.sleep(pause_s)
    assert study.last_run is not None
    if study.last_run.interrupted:
        sys.exit(f"stopped in {place}; the same command goes on")
    return study


def attack_part(study: ru.Study, say: Say) -> None:
    """Attack the scored row of each trial with the first of the part's seeds, if it was not yet."""
    trials = study.trials
    scored = trials[trials["score_selection"].notna()]
    numbers = set(scored.loc[scored["seed"] == PART_SEEDS[0], "number"])
    missing = numbers - {model.number for model in read_attacks(Path(study.location))}
    if missing:
        attacked(study.location, [(str(n), None, None) for n in sorted(missing)], ATTACKS, say)


def build(
    given: argparse.Namespace,
    say: Say = print,
    run: Callable[[StudySpec, Path], ru.Study] = run_study,
    attack: Callable[[ru.Study, Say], None] = attack_part,
) -> None:
    """Run what is missing, pass by pass, and write the table after each.

    Args:
        given: what was asked for, as `arguments` has it.
        say: receives news, a line at a time.
        run: runs a study at a place, or goes on with it.
        attack: attacks what was not attacked yet of a part.
    """
    out: Path = given.out
    files = out / "files"
    worlds = [World(d, s, m) for m in given.methods for s in given.models for d in given.domains]
    worlds = [world for world in worlds if world.domain != SMOLLM2 or world.seed == 0]
    for reached in passes(given.configurations):
        for world in worlds:
            spec = world_study(world, files, reached, given.lanes)
            study = run(spec, out / "studies" / world.name)
            say(f"{study.location}: {reached} configurations of {len(spec.methods)} methods")
            if given.part and reached >= min(PART_FROM, given.configurations):
                part = part_study(world, files, study, given.lanes)
                attack(run(part, out / "studies" / f"{world.name}-part"), say)
        write_tables(out / "table", sources(out / "studies"), say)


def sources(studies: Path) -> list[Source]:
    """All studies that there are, whichever this command was asked for."""
    found = []
    for which in ("paper", "others"):
        for domain in (*DOMAINS, SMOLLM2):
            for seed in MODEL_SEEDS:
                world = World(domain, seed, which)  # type: ignore[arg-type]
                place, part = studies / world.name, studies / f"{world.name}-part"
                if place.exists():
                    suffix = "" if which == "paper" else "-others"
                    parts = part if part.exists() else None
                    found.append(Source(domain, seed, f"{domain}{suffix}", place, parts))
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the studies and the table")
    parser.add_argument("--configurations", type=int, default=256, help="of each method")
    parser.add_argument("--methods", nargs="+", default=["paper"], choices=["paper", "others"])
    parser.add_argument("--domains", nargs="+", default=DOMAINS, choices=[*DOMAINS, SMOLLM2])
    parser.add_argument("--models", type=int, nargs="+", default=MODEL_SEEDS, choices=MODEL_SEEDS)
    parser.add_argument("--lanes", type=int, default=2, help="trials at a time, one core each")
    parser.add_argument("--no-part", dest="part", action="store_false",
                        help="neither more seeds, nor strength, nor attacks")  # fmt: skip
    parser.add_argument(
        "--write", action="store_true", help="only write the table of what is there"
    )
    found = parser.parse_args(given)
    if found.configurations < 1:
        parser.error("--configurations: at least 1")
    return found


def main() -> None:
    """Build what is asked for, and say where it is."""
    given = arguments()
    if given.write:
        write_tables(given.out / "table", sources(given.out / "studies"), print)
    else:
        build(given, partial(print, flush=True))


if __name__ == "__main__":
    main()
