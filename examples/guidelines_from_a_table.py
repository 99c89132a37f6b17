"""Guidelines from anyone's table of trials, and a study that begins where they point.

    python examples/guidelines_from_a_table.py trials.csv my_study.yaml next.yaml

The table has one line per trial. Here its column `lr` holds the learning rate, `loss` the score
(lower is better), and the trials were drawn at random.
"""

import sys

import ray_unlearn as ru


def main(table: str, study_file: str, next_file: str) -> None:
    guide = ru.guidelines(table, mapping={"lr": "learning_rate"}, score="loss", sampler="random")
    print(guide)
    for claim in guide.claimed:
        print(f"claimed, grade {claim.grade}: {claim.text}")
    for claim in guide.withheld:
        print(f"withheld: {claim.id}: {claim.why}")
    guide.save("guidelines.json")
    print(guide.to_frame()[["method", "param", "status", "low", "high"]])

    guide.narrow(next_file, study_file)  # then: ru.run(next_file, ...)


if __name__ == "__main__":
    main(*sys.argv[1:])
