"""Tables that programs write: Optuna, Ray Tune, MLflow, Weights & Biases, DeepCAVE."""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

PLAIN = "a plain table"
OPTUNA = "Optuna's trials_dataframe"
RAY_TUNE = "Ray Tune's results"
MLFLOW = "MLflow's runs"
WANDB = "a W&B run table"
WANDB_CHART = "a W&B chart export"
DEEPCAVE = "DeepCAVE's trials"
SKLEARN = "scikit-learn's cv_results_"
OPEN_UNLEARNING = "OpenUnlearning's evaluations"
CHART_COLUMN = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?")
DEEPCAVE_METRIC = re.compile(r"metric:(?P<name>.+?)(?: \[.*\])?(?: \((?P<way>\w+)\))?")
RAY_OWN = frozenset((
    "timestamp", "checkpoint_dir_name", "done", "training_iteration", "trial_id", "date",
    "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip", "time_since_restore",
    "iterations_since_restore", "logdir", "should_checkpoint", "experiment_tag", "warmup_time",
    "episodes_total", "timesteps_total", "timesteps_since_restore", "trial_name", "error",
))  # fmt: skip


WANDB_OWN = frozenset((
    "Name", "ID", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep", "Group",
    "Job Type", "Host", "End Time", "Updated", "GPU Type", "GPU Count",
))  # fmt: skip
DEEPCAVE_OWN = frozenset(("budget", "additional", "start_time", "end_time", "origin"))


@dataclass(frozen=True)
class TableFormat:
    """What the program that wrote a table says by its form."""

    name: str = PLAIN
    roles: dict[str, str] = field(default_factory=dict)
    """Columns that it names itself, with their role."""
    maximise: dict[str, bool] = field(default_factory=dict)
    """Direction of a score column, where the program says."""
    own: frozenset[str] = frozenset()
    """Columns that it writes by itself and that are no hyperparameters."""


def format_of(table: pa.Table) -> tuple[pa.Table, TableFormat]:
    """The program that wrote a table, and the table in the form of the others.

    A chart's columns become lines; an objective of DeepCAVE has its bare name.
    """
    names = set(table.column_names)
    if {"number", "state"} <= names and any(_optuna_value(name) for name in names):
        roles = {"number": "trial", "state": "status", "value": "score"}
        return table, TableFormat(OPTUNA, _there(roles, names))
    if {"trial_id", "training_iteration"} <= names:
        roles = {"trial_id": "trial", "training_iteration": "step"}
        return table, TableFormat(RAY_TUNE, roles)
    if "run_id" in names and any(name.startswith(("params.", "metrics.")) for name in names):
        return table, TableFormat(MLFLOW, _there({"run_id": "trial", "status": "status"}, names))
    if "config_id" in names and any(name.startswith("metric:") for name in names):
        return _deepcave(table)
    if any(name.endswith("__MIN") and CHART_COLUMN.fullmatch(name) for name in names):
        return _chart(table), TableFormat(WANDB_CHART, {"run": "trial", "step": "step"})
    if {"mean_test_score", "params"} <= names:
        roles = {"mean_test_score": "score"}
        return table, TableFormat(SKLEARN, roles, {"mean_test_score": True})
    if "State" in names and names & {"Name", "ID"}:
        trial = next(key for key in ("ID", "Name") if key in names)
        return table, TableFormat(WANDB, {trial: "trial", "State": "status"}, own=WANDB_OWN)
    return table, TableFormat()


def _optuna_value(name: str) -> bool:
    return name == "value" or name.startswith(("values_", "params_"))


def _there(roles: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: role for name, role in roles.items() if name in names}


def _deepcave(table: pa.Table) -> tuple[pa.Table, TableFormat]:
    """Objectives by their names; one trial for each configuration and seed."""
    names, directions = [], {}
    for name in table.column_names:
        found = DEEPCAVE_METRIC.fullmatch(name)
        names.append(found["name"] if found else name)
        if found and found["way"]:
            directions[found["name"]] = found["way"].lower().startswith("max")
    table = table.rename_columns(names)
    roles = _there({"status": "status", "seed": "seed", "config_id": "trial"}, set(names))
    if "budget" in names and len(table["budget"].unique()) > 1:
        roles["budget"] = "step"
    if "seed" in names:
        unknown = pd.to_numeric(table["seed"].to_pandas(), errors="coerce")
        labels = table["config_id"].to_pandas().astype(str)
        several = unknown.nunique() > 1
        labels = labels + " seed " + unknown.astype(str) if several else labels
        at = names.index("config_id")
        table = table.set_column(at, "config_id", pa.array(labels, pa.string()))
        seeds = pa.array(unknown.where(unknown >= 0), from_pandas=True)
        table = table.set_column(names.index("seed"), "seed", seeds)
    metrics = list(directions)
    if len(metrics) == 1:
        roles[metrics[0]] = "score"
    return table, TableFormat(DEEPCAVE, roles, directions, DEEPCAVE_OWN)


def _chart(table: pa.Table) -> pa.Table:
    """A chart's columns, one for each run and metric, as one line for each run and step."""
    frame = table.to_pandas()
    step = frame.columns[0]
    parts = []
    for name in frame.columns:
        found = CHART_COLUMN.fullmatch(name)
        if found is None or found["bound"] or name.endswith("_step"):
            continue
        values = frame[[step, name]].dropna(subset=[name])
        part = pd.DataFrame({"run": found["run"], "step": values[step], "value": values[name]})
        parts.append(part.assign(metric=found["metric"]))
    lines = pd.concat(parts, ignore_index=True)
    if lines["value"].dtype == object:  # `12,5 %`: `written_numbers` reads it
        lines["value"] = lines["value"].astype(str)
    wide = lines.pivot_table(
        index=["run", "step"], columns="metric", values="value", aggfunc="last", sort=False
    )
    wide = wide.reset_index().rename_axis(columns=None)
    return pa.Table.from_pandas(wide.replace({np.nan: None}), preserve_index=False)
