"""Train the demo models that come with the package, or hold theirs against new ones.

    python scripts/demo_models.py            # replaces ray_unlearn/demo/models/shakespeare-*
    python scripts/demo_models.py --check    # trains elsewhere, compares, changes nothing

It takes about 90 s on two cores. The tokenizer must come out the same byte for byte on any machine.
The weights do so on machines whose kernels add numbers in the same order (processor, versions of
torch and its libraries, one thread); on others rounding differs, and 1,080 steps enlarge it. Then
each split's loss must agree within `TOLERANCE`.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

from ray_unlearn.demo.build import ROLES, SHIPPED, cache_key, train_models
from ray_unlearn.demo.recipe import RECIPES

DOMAIN = "shakespeare"
TOLERANCE = 0.04
"""nats per token, by which the loss of a split may differ.

Kernels of AVX2 instead of AVX-512 change it by at most 0.012, another seed by up to 0.16.
"""
TOLERANCE_AUC = 0.03
"""By which the membership attack's AUC may differ; 0.011 between the same kernels."""


def train(folder: Path) -> None:
    """Train both models into a new folder, as `build` does without a cache."""

    def show(stage: str, fraction: float) -> None:
        print(f"\r{stage}: {fraction:4.0%}", end="", file=sys.stderr, flush=True)

    folder.mkdir(parents=True)
    train_models(folder, DOMAIN, RECIPES[DOMAIN], show)
    print(file=sys.stderr)


def differences(one: Path, other: Path) -> list[str]:
    """What two folders of models disagree about beyond rounding; nothing if they are one recipe's.

    Args:
        one: with vanilla, retrained and world.json in it.
        other: likewise.
    """
    found = []
    metrics = [
        json.loads((folder / "world.json").read_text())["metrics"] for folder in (one, other)
    ]
    for role in ROLES:
        if (one / role / "tokenizer.json").read_bytes() != (
            other / role / "tokenizer.json"
        ).read_bytes():
            found.append(f"{role}: another tokenizer")
        for name, value in metrics[0][role].items():
            again = metrics[1][role][name]
            auc = name == "mia_auc"
            far = abs(value - again) if auc else abs(math.log(value / again))
            if not far <= (TOLERANCE_AUC if auc else TOLERANCE):
                found.append(f"{role}: {name} {value:.4g} against {again:.4g}")
    return found


def same_weights(one: Path, other: Path) -> bool:
    """Whether the weights agree bit for bit."""
    return all(
        (one / role / "model.safetensors").read_bytes()
        == (other / role / "model.safetensors").read_bytes()
        for role in ROLES
    )


def main() -> int:
    """Train, and replace or compare; returns 1 where the recipe does not make the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare and change nothing")
    check = parser.parse_args().check
    shipped = SHIPPED / f"{DOMAIN}-{cache_key(DOMAIN, RECIPES[DOMAIN])}"
    if check and not shipped.is_dir():
        print(f"{shipped} is missing: the text or the recipe has changed; run this without --check")
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "models"
        train(new)
        if not check:
            for old in SHIPPED.glob(f"{DOMAIN}-*"):
                shutil.rmtree(old)
            shutil.copytree(new, shipped)
            for file in shipped.rglob("*"):
                file.chmod(0o755 if file.is_dir() else 0o644)
            print(shipped)
            return 0
        found = differences(shipped, new)
        bits = "bit for bit the same" if same_weights(shipped, new) else "other bits (rounding)"
    print("\n".join(found) or f"the recipe makes the models that come along; weights: {bits}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
