"""Run a study, attack the best model of each method, and report: what `make authors` does.

    python scripts/attacked_study.py studies/authors.yaml --storage results/authors/study \
        --report results/authors/report [--tasks results/authors/data/tasks/*.yaml]

Stopped, the same command goes on: a study that is there is resumed, and a model that was attacked
is not attacked again.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import ray_unlearn as ru
from ray_unlearn.store.attack_file import read_attacks


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a study, attack its best models, report.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, nargs="*", default=[], help="of lm-eval")
    given = parser.parse_args()
    if (given.storage / "study.yaml").exists():
        study = ru.open(given.storage)
        state = study.status()
        if state.unfinished or state.finished < (state.asked_for or 0):
            study.resume()
    else:
        study = ru.run(given.study, given.storage)
    known = {(one.number, one.update) for one in read_attacks(given.storage)}
    for best in map(study.best_of, study.spec.methods):
        if (best.number, best.update) not in known:
            study.attack(best.number)
    if given.tasks and find_spec("lm_eval"):
        for best in map(study.best_of, study.spec.methods):
            study.evaluate([str(task) for task in given.tasks], best.number)
    elif given.tasks:
        print("tasks left out: pip install 'ray-unlearn[lm-eval]'")
    ru.report(given.storage, out=given.report)
    print(f"report: {given.report}")


if __name__ == "__main__":
    main()
