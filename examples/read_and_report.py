"""Open a study, look at its trials, write its report. Needs neither Ray nor torch.

python examples/read_and_report.py results/my-study report/
"""

import sys

import ray_unlearn as ru


def main(location: str, out: str) -> None:
    study = ru.open(location)
    status = study.status()
    print(f"{status.name}: {status.finished} of {status.asked_for} trials, {status.outcomes}")

    trials = study.trials  # one line per trial
    print(trials.sort_values("score_selection")[["method", "learning_rate", "update", "status"]])
    rows = study.rows  # one line per evaluation
    print(rows.groupby("method")["forget_ppl"].agg(["min", "max"]))

    written = ru.report(study, out=out)
    print(written.guide)
    print(written.page)


if __name__ == "__main__":
    main(*sys.argv[1:])
