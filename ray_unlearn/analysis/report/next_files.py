"""Files for the next trials: a study that `run` takes for each study, and one table for all."""

from collections.abc import Sequence

import pandas as pd

from ray_unlearn.analysis.guidelines.next_trials import NextTrial
from ray_unlearn.analysis.read.study_results import StudyResults
from ray_unlearn.analysis.report.report_files import ReportFolder
from ray_unlearn.analysis.trials import TrialTable
from ray_unlearn.spec.next_study import study_of_configurations
from ray_unlearn.spec.strict import yaml_text


def write_next(
    found: Sequence[NextTrial],
    table: TrialTable,
    studies: Sequence[StudyResults],
    files: ReportFolder,
) -> None:
    """Write `next.csv` and, for each study that the trials belong to, a study file.

    It is `next.yaml`, or `next-NAME.yaml` where there are several studies. A trial belongs to the
    first study of its group that searches its method.
    """
    left = list(found)
    for study in studies:
        own = set(table.trials.loc[table.trials["study"] == study.key, "group"])
        methods = () if study.spec is None else study.spec.methods
        mine = [trial for trial in left if trial.group in own and trial.method in methods]
        left = [trial for trial in left if trial not in mine]
        if study.spec is None or not mine:
            continue
        configurations = {
            method: [trial.values for trial in mine if trial.method == method] for method in methods
        }
        content = study_of_configurations(study.spec, configurations).model_dump(mode="json")
        name = "next" if len(studies) == 1 else files.unique(f"next-{study.key}")
        files.text(f"{name}.yaml", yaml_text(content))
    lines = [
        {"method": trial.method, "group": trial.group, **trial.values, "gain": trial.gain}
        for trial in found
    ]
    files.text("next.csv", pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
