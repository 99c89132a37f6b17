"""Go on with a study, confirm its best configuration with new seeds, export its model.

python examples/extend_and_confirm.py results/my-study model/
"""

import sys

import ray_unlearn as ru


def main(location: str, model: str) -> None:
    study = ru.open(location)
    study.resume(trials=1)  # one more of each method
    print(study.last_run.counts)

    # The best of many is best partly by luck; seeds that chose nothing have no such luck.
    for found in study.confirm(top=1, seeds=2).configurations:
        print(f"{found.method}: claimed {found.claimed_selection:.4f}, over {found.interval.n} new")
        print(f"  seeds {found.interval.mean:.4f} ({found.interval.low:.4f} to", end=" ")
        print(f"{found.interval.high:.4f}, 90 %)")

    study.export("rows.parquet")
    study.export(model, trial="best")
    print(study.verify().problems)


if __name__ == "__main__":
    main(*sys.argv[1:])
