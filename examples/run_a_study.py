"""Run a study and read its best configuration.

python examples/run_a_study.py my_study.yaml results/my-study
"""

import sys

import ray_unlearn as ru


def main(study_file: str, location: str) -> None:
    # Stopped with Ctrl-C, the same command goes on: resume=True.
    study = ru.run(study_file, location, lanes=2, resume=True)
    best = study.best
    print(f"best: {best.method}, trial {best.number} ({best.trial_id}), update {best.update}")
    print(f"  chosen by {best.score_selection:.4f}, to be quoted: {best.score_reporting:.4f}")
    for name, value in best.hyperparameters.items():
        print(f"  {name}: {value}")
    for method in study.spec.methods:
        print(f"{method}: {study.best_of(method).score_reporting:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
