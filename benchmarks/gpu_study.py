"""A trial at equal forgetting, and attacks on its model: a step of `gpu_first_run.sh`.

For a study file whose model and data are at hand, such as that of `make smollm2`; needs no Ray.

    python benchmarks/gpu_study.py STUDY.yaml [--updates 20]
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu_common as common

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.attacks.measured_attacks import Attacker
from ray_unlearn.unlearn.single_trial import Single

METHOD = "ascent_kl_in_distribution"
COLUMNS = ("update", "strength", "forget_nll", "retain_heldout_nll_selection", "wall_s")


def run(file: Path, updates: int) -> dict[str, Any]:
    """Rows of the trial, as trained and at equal forgetting, and what attacks take back."""
    spec = load_study(file)
    operations = spec.operations.model_copy(update={"gpus_per_worker": 1})
    single = Single(spec.model_copy(update={"operations": operations}), print)
    rows: list[dict[str, Any]] = []
    config = TrialConfig(
        method=METHOD, learning_rate=1e-5, steps=updates, batch_size=8,
        evaluate_at=(updates // 2, updates), context=single.context,
    )  # fmt: skip
    ended = single.run(config, single.baselines(), rows.append, calibrates=True)  # type: ignore[arg-type]
    assert ended.status == "complete", ended
    attacker = Attacker(single.workspace, spec, AttackSpec(), print)
    return {
        "rows": [{name: row[name] for name in COLUMNS if name in row} for row in rows],
        "attacks": [asdict(found) for found in attacker.attack_policy()],
    }


def main() -> int:
    """1 if it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--updates", type=int, default=20)
    given = parser.parse_args()
    return int(not common.tried("strength and attacks", lambda: run(given.study, given.updates)))


if __name__ == "__main__":
    sys.exit(main())
