"""The demo models of a domain: those that come with the package, or trained once and cached.

The vanilla model and the exactly retrained one are trained side by side.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from ray_unlearn.demo.recipe import RECIPES, VERSION, Recipe
from ray_unlearn.demo.text import text_file
from ray_unlearn.store.atomic_write import whole_folder

ROLES = ("vanilla", "retrained")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
PERIOD_S = 0.5  # seconds between two looks at the processes
SHIPPED = Path(__file__).parent / "models"
"""Models that come with the package, named as in the cache; scripts/demo_models.py makes them."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class DemoModels:
    """The models of a domain that were trained from one seed.

    `vanilla` and `retrained` are Hugging Face folders; `info` is world.json: cost and metrics.
    """

    domain: str
    folder: Path
    vanilla: Path
    retrained: Path
    info: dict[str, Any]


def build(
    domain: str,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> DemoModels:
    """The demo models of a domain: from the cache, from the package, or trained and cached.

    Those of `demo:shakespeare` come with the package; training others takes two processes about
    90 s. Models in the cache come first: studies may have been run on them, and another machine's
    are not the same bit for bit. The seed sets the initial weights and the order of the
    batches of both models; the text, the splits and the tokenizer are the same for every seed.

    Args:
        domain: one of `DOMAINS`.
        cache_dir: the cache; default: $RAY_UNLEARN_CACHE or ~/.cache/ray_unlearn.
        progress: called as `progress(stage, fraction)` about twice a second during training.
        recipe: for tests, a shorter one; it makes other models.
        seed: the training seed.

    Raises:
        UserError: unknown domain.
        RuntimeError: a training process failed.
    """
    text_file(domain)  # refuses an unknown domain
    recipe = replace(recipe or RECIPES[domain], seed=seed)
    progress = progress or (lambda stage, fraction: None)
    folder = _world_folder(domain, recipe, cache_dir)
    if not folder.is_dir():
        _made_once(folder, lambda place: train_models(place, domain, recipe, progress))
    progress(f"demo world {domain} is ready", 1.0)
    info = json.loads((folder / "world.json").read_text())
    return DemoModels(domain, folder, folder / "vanilla", folder / "retrained", info)


def is_built(domain: str, seed: int = 0) -> bool:
    """Whether the models of a domain and a training seed need not be trained."""
    folder = _world_folder(domain, replace(RECIPES[domain], seed=seed))
    return (folder / "world.json").is_file()


def build_retrained(
    domain: str,
    seed: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
) -> Path:
    """The retrained model of a domain, trained from another seed and cached.

    The seed sets initial weights and batch order; training takes about 65 s. The text, the
    tokenizer and all else are those of `build`, and so are the other arguments and the errors.
    Where `build` has trained from this seed, its retrained model is the one asked for.
    """
    text_file(domain)
    recipe = replace(recipe or RECIPES[domain], seed=seed)
    progress = progress or (lambda stage, fraction: None)
    world = _world_folder(domain, recipe, cache_dir)
    if world.is_dir():
        return world / "retrained"
    folder = world.with_name(f"{domain}-retrained-{cache_key(domain, recipe)}")
    _made_once(folder, lambda place: _train(place, domain, recipe, ("retrained",), progress))
    return folder / "retrained"


def _world_folder(domain: str, recipe: Recipe, cache_dir: Path | None = None) -> Path:
    """Where the models of a domain and a recipe are, or will be: cache, package, or cache."""
    name = f"{domain}-{cache_key(domain, recipe)}"
    cached, shipped = (cache_dir or cache_folder()) / "demo_world" / name, SHIPPED / name
    return shipped if shipped.is_dir() and not cached.is_dir() else cached


def _made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder of the cache, whole or not at all, unless it exists; other processes wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with whole_folder(folder) as draft:
                make(draft)


def cache_folder() -> Path:
    """`$RAY_UNLEARN_CACHE`, or `~/.cache/ray_unlearn`."""
    return Path(os.environ.get("RAY_UNLEARN_CACHE") or Path.home() / ".cache" / "ray_unlearn")


def cache_key(domain: str, recipe: Recipe) -> str:
    """A hash of what makes the models: text, recipe and version of the training code."""
    content = (
        text_file(domain).read_bytes()
        + json.dumps([asdict(recipe), VERSION], sort_keys=True).encode()
    )
    return hashlib.sha256(content).hexdigest()[:12]


def train_models(folder: Path, domain: str, recipe: Recipe, progress: Progress) -> None:
    """Train both models, one process each, and write world.json."""
    started = time.monotonic()
    _train(folder, domain, recipe, ROLES, progress)
    reports = {role: json.loads((folder / f"{role}.json").read_text()) for role in ROLES}
    info = demo_info(domain, recipe, reports, wall_s=time.monotonic() - started)
    for leftover in folder.glob("*.*"):
        leftover.unlink()
    (folder / "world.json").write_text(json.dumps(info, indent=2) + "\n")


def _train(
    folder: Path, domain: str, recipe: Recipe, roles: Sequence[str], progress: Progress
) -> None:
    """Train the models of `roles` side by side, one process each."""
    module = "ray_unlearn.demo.pretrain"
    processes = {
        role: subprocess.Popen(
            [sys.executable, "-m", module, domain, role, json.dumps(asdict(recipe)), str(folder)],
            env=os.environ | ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{role}.log").open("w"),
        )
        for role in roles
    }

    def failed() -> str | None:
        return next((role for role, process in processes.items() if process.poll()), None)

    try:
        while not failed() and any(process.poll() is None for process in processes.values()):
            fraction = sum(_fraction(folder / f"{role}.progress") for role in roles) / len(roles)
            progress(f"training the {' and the '.join(roles)} model of {domain}", 0.99 * fraction)
            time.sleep(PERIOD_S)
        culprit = failed()  # before the other process is killed, which would look failed too
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    if culprit:
        log, code = (folder / f"{culprit}.log").read_text(), processes[culprit].returncode
        raise RuntimeError(
            f"training the {culprit} model of {domain} ended with exit status {code}: {log[-2000:]}"
        )


def _fraction(path: Path) -> float:
    """A training process's progress; 0 before its first step."""
    try:
        return float(path.read_text() or 0)
    except FileNotFoundError:
        return 0.0


def demo_info(
    domain: str, recipe: Recipe, reports: dict[str, Any], wall_s: float
) -> dict[str, Any]:
    """The content of world.json.

    FLOPs are counted, tokens include every epoch, and perplexities are per token.
    """
    return {
        "domain": domain,
        "parameters": reports["vanilla"]["parameters"],
        "pretraining_tokens": reports["vanilla"]["tokens"],
        "pretraining_flops": reports["vanilla"]["flops"],
        "retraining_tokens": reports["retrained"]["tokens"],
        "retraining_flops": reports["retrained"]["flops"],
        "wall_s": round(wall_s, 1),
        "training_wall_s": {role: round(reports[role]["wall_s"], 1) for role in ROLES},
        "metrics": {role: reports[role]["metrics"] for role in ROLES},
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        "recipe_version": VERSION,
        "versions": {
            name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")
        }
        | {"python": sys.version.split()[0]},
    }
