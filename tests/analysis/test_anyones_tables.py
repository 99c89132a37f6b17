"""Results of other programs, without flags: what each column is, which trials count, and that the
best trial is named with its hyperparameters. Files of Optuna are written by Optuna, others in the
form that their programs document."""

import json
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from ray_unlearn.analysis.read.column_names import higher_is_better
from ray_unlearn.analysis.read.foreign_table import ForeignResults
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.derive import derive_guidelines
from ray_unlearn.analysis.trials import trial_table
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.guideline_file import BestTrial

DRAW = np.random.default_rng(7)
RATES = 10 ** DRAW.uniform(-6, -3, 24)
WEIGHTS = 10 ** DRAW.uniform(-1, 1, 24)


def loss(rate: float, weight: float = 1.0) -> float:
    """Best at a learning rate of 3e-5 and a weight of 1."""
    return (math.log10(rate) + 4.5) ** 2 + 0.1 * math.log10(weight) ** 2


LOSSES = np.array([loss(rate, weight) for rate, weight in zip(RATES, WEIGHTS, strict=True)])
BEST = int(LOSSES.argmin())


def read(path: Path, **how: Any) -> ForeignResults:
    return load([path], **how).foreign[0]


def best_of(path: Path, **how: Any) -> BestTrial:
    """The best trial as page, command and API name it."""
    (best,) = derive_guidelines([path], **how).best_trials
    return best


def uses(found: ForeignResults) -> dict[str, str]:
    return {use.column: use.use for use in found.columns}


def as_file(path: Path, text: str, **how: Any) -> Path:
    path.write_text(text, **how)
    return path


def test_results_are_never_hyperparameters(tmp_path: Path) -> None:
    names = re.split(
        r"\s",
        "retain_ppl runtime_s forget_rougeL valLoss test_acc auc_mia duration pid hostname date "
        "timestamp ckpt_path best_epoch eval/general peak_memory_gib train_loss mia_auc wandb_id "
        "total_flos train_samples_per_second grad_norm KnowMem_r job_num gpu_id",
    )
    frame = pd.DataFrame({name: DRAW.normal(size=24) for name in names})
    frame = frame.assign(lr=RATES, w_r=WEIGHTS, retain_loss_weight=WEIGHTS, loss_type="nll")
    frame = frame.assign(layer_id=WEIGHTS.round(), use_kl=WEIGHTS > 1, score=LOSSES)
    frame.to_csv(tmp_path / "t.csv")
    found = read(tmp_path / "t.csv")
    assert found.hyperparameters == (
        "layer_id",
        "learning_rate",
        "loss_type",
        "retain_loss_weight",
        "use_kl",
        "w_r",
    )
    assert all(use.why for use in found.columns)
    assert uses(found)["retain_ppl"] == "outcome"
    assert uses(found)["hostname"] == "left out"
    assert uses(read(tmp_path / "t.csv", mapping={"retain_ppl": "beta"}))["retain_ppl"] == (
        "hyperparameter"
    ), "unless somebody says so"
    assert read(tmp_path / "t.csv", params=["w_r"]).hyperparameters == ("w_r",)
    assert "w_r" not in read(tmp_path / "t.csv", outcomes=["w_r"]).hyperparameters


def test_what_is_left_over_is_assumed_to_be_searched_and_said_to_be(tmp_path: Path) -> None:
    lines = "".join(f"{rate},{i % 3},{s}\n" for i, (rate, s) in enumerate(zip(RATES, LOSSES)))  # noqa: B905
    found = read(as_file(tmp_path / "t.csv", "lr,lambda_flow,score\n" + lines))
    assert found.hyperparameters == ("lambda_flow", "learning_rate")
    assert any("`lambda_flow`" in note and "--outcomes" in note for note in found.notes)


def test_a_column_that_changes_with_the_step_or_the_seed_is_a_result(tmp_path: Path) -> None:
    steps = [(t, s, RATES[t], t % 2, s * 0.1) for t in range(5) for s in range(3)]
    frame = pd.DataFrame(steps, columns=["trial", "step", "lr", "recipe", "odd"])
    frame.assign(score=1.0).to_csv(tmp_path / "steps.csv", index=False)
    found = read(tmp_path / "steps.csv")
    assert found.hyperparameters == ("learning_rate", "recipe")
    assert uses(found)["odd"] == "outcome"
    seeds = [(r, s, DRAW.normal(), DRAW.normal()) for r in RATES[:5] for s in range(3)]
    frame = pd.DataFrame(seeds, columns=["lr", "seed", "odd", "score"])
    frame.to_csv(tmp_path / "seeds.csv", index=False)
    assert uses(read(tmp_path / "seeds.csv"))["odd"] == "outcome"


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("lr", 1e-6, 1e-3, log=True)
    if trial.suggest_categorical("opt", ["adam", "sgd"]) == "sgd":
        trial.suggest_float("momentum", 0, 1)
    if trial.number % 5 == 1:
        trial.report(loss(rate) / 1000, 1)
        raise optuna.TrialPruned
    if trial.number % 5 == 2:
        raise ValueError("no luck")
    return loss(rate)


def optuna_study(storage: Any, direction: str = "minimize") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=3)
    study = optuna.create_study(
        storage=storage, study_name="s", direction=direction, sampler=sampler
    )
    sign = 1 if direction == "minimize" else -1
    study.optimize(lambda trial: sign * objective(trial), n_trials=15, catch=(ValueError,))
    return study


@pytest.mark.parametrize("kind", ["frame.csv", "frame.parquet", "study.db", "study.journal"])
def test_an_optuna_study_names_its_best_complete_trial(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    direction = "maximize" if "study" in kind else "minimize"
    storage: Any = None
    if kind == "study.db":
        storage = f"sqlite:///{path}"
    elif kind == "study.journal":
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna_study(storage, direction)
    if kind == "frame.csv":
        study.trials_dataframe().to_csv(path)
    elif kind == "frame.parquet":
        study.trials_dataframe().to_parquet(path)
    before = path.read_bytes()
    found, best = read(path), best_of(path)
    assert path.read_bytes() == before
    assert found.hyperparameters == ("learning_rate", "momentum", "opt")
    assert found.maximise == (direction == "maximize")
    assert found.trials["status"].value_counts().to_dict() == {
        "complete": 9,
        "pruned": 3,
        "failed": 3,
    }
    assert set(trial_table(load([path])).trials["status"]) == {"complete"}
    assert best.label == str(study.best_trial.number)
    assert best.score == pytest.approx(study.best_value)
    assert best.hyperparameters["learning_rate"] == pytest.approx(study.best_params["lr"])


def test_a_database_that_is_not_of_optuna_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + bytes(4000))
    with pytest.raises(UserError, match=r"x\.db: Optuna cannot read this storage"):
        load([tmp_path / "x.db"])


def ray_line(i: int, step: int) -> dict[str, Any]:
    own = {"pid": i, "hostname": "vm", "node_ip": "192.0.2.2", "time_total_s": 0.1 * i, "done": 0}
    return {
        "trial_id": f"t_{i:05d}",
        "training_iteration": step,
        "loss": LOSSES[i] / step,
        "timestamp": 1,
        "date": "2026-11-29",
        **own,
    }


def test_ray_tune_searched_what_is_in_its_config(tmp_path: Path) -> None:
    config = [{"lr": RATES[i], "nest": {"wd": i}, "seed": i % 3} for i in range(6)]
    flat = [{"config/lr": c["lr"], "config/nest/wd": c["nest"]["wd"], "config/seed": c["seed"]}
            for c in config]  # fmt: skip
    frame = pd.DataFrame([ray_line(i, 4) | flat[i] for i in range(6)])
    frame.to_csv(tmp_path / "frame.csv", index=False)
    for i in range(6):
        folder = tmp_path / "experiment" / f"f_{i}"
        folder.mkdir(parents=True)
        as_file(folder / "params.json", json.dumps(config[i]))
        lines = [json.dumps(ray_line(i, step) | {"config": config[i]}) for step in (1, 2, 3, 4)]
        as_file(folder / "result.json", "\n".join(lines) + '\n{"torn')
    as_file(tmp_path / "experiment" / "f_5" / "error.txt", "boom")
    for source in ("frame.csv", "experiment"):
        found, best = read(tmp_path / source), best_of(tmp_path / source)
        assert found.hyperparameters == ("learning_rate", "nest/wd")
        assert sorted(set(found.trials["seed"])) == [0, 1, 2]
        assert uses(found)["loss"] == "score"
        among = LOSSES[:6] if source == "frame.csv" else LOSSES[:5]
        assert best.label == f"t_{int(among.argmin()):05d}"
        assert best.update == 4
    assert (read(tmp_path / "experiment").trials["status"] == "failed").sum() == 1


def test_a_ray_tune_frame_with_an_index_has_one_metric(tmp_path: Path) -> None:
    """Found in a frame that Ray 2.53 wrote: the index without a name may be no score."""
    frame = pd.DataFrame([ray_line(i, 4) | {"config/lr": RATES[i]} for i in range(6)])
    frame.to_csv(tmp_path / "frame.csv")
    assert best_of(tmp_path / "frame.csv").label == f"t_{int(LOSSES[:6].argmin()):05d}"


def test_what_an_optuna_storage_searched_bounds_the_axes(tmp_path: Path) -> None:
    def in_wide_bounds(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-9, 1.0, log=True)
        layers = trial.suggest_int("layers", 1, 64)
        trial.suggest_float("dropout", 0.0, 0.1 * (1 + trial.number % 2))
        trial.suggest_categorical("width", [32, 64])
        return loss(rate) + layers

    path = tmp_path / "study.db"
    study = optuna.create_study(
        storage=f"sqlite:///{path}", sampler=optuna.samplers.RandomSampler(seed=3)
    )
    study.optimize(in_wide_bounds, n_trials=12)
    (axes,) = trial_table(load([path])).axes.values()
    found = {axis.name: (axis.scale, axis.low, axis.high) for axis in axes if axis.bounds_known}
    assert found == {
        "learning_rate": ("log", 1e-9, 1.0),
        "layers": ("linear", 1.0, 64.0),
        "dropout": ("linear", 0.0, 0.2),
    }
    study.trials_dataframe().to_csv(tmp_path / "frame.csv")
    (axes,) = trial_table(load([tmp_path / "frame.csv"])).axes.values()
    assert not any(axis.bounds_known for axis in axes), "a frame does not say"


def test_a_wandb_run_table_and_a_chart(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "Name": [f"run-{i}" for i in range(24)],
        "State": ["finished"] * 21 + ["crashed", "failed", "killed"],
        "Notes": "-", "User": "me", "Tags": "", "Created": "2026-11-01T10:00:00.000Z",
        "Runtime": range(24), "Sweep": "abc", "learning_rate": RATES, "optimizer": "adam",
        "_step": 99, "_timestamp": 1.7e9, "eval/loss": LOSSES, "train/loss": LOSSES,
    })  # fmt: skip
    frame.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match=r"may be `eval/loss`, `train/loss`; .*--score eval/loss`"):
        load([tmp_path / "runs.csv"])
    found = read(tmp_path / "runs.csv", score="eval/loss")
    assert found.hyperparameters == ("learning_rate", "optimizer")
    assert (found.trials["status"] == "failed").sum() == 3
    assert any("`killed`" in note for note in found.notes)
    best = best_of(tmp_path / "runs.csv", score="eval/loss")
    assert best.label == f"run-{int(LOSSES[:21].argmin())}"
    chart: dict[str, Any] = {"Step": [0, 1, 2]}
    for i, end in enumerate((3.0, 1.0, 2.0)):
        for suffix in ("", "__MIN", "__MAX"):
            chart[f"run-{i} - val_loss{suffix}"] = [9.0, end, end + 0.5]
    pd.DataFrame(chart).to_csv(tmp_path / "chart.csv", index=False)
    best = best_of(tmp_path / "chart.csv")
    assert (best.label, best.score, best.update) == ("run-1", 1.0, 1)


@pytest.mark.parametrize(("separator", "form"), [(",", "{},5 %"), (";", "{},5"), (",", "{}.5")])
def test_a_wandb_chart_of_written_numbers(tmp_path: Path, separator: str, form: str) -> None:
    chart: dict[str, Any] = {"Step": [0, 1, 2]}
    for run in range(4):
        for suffix in ("", "__MIN", "__MAX"):
            chart[f"run-{run} - val_acc{suffix}"] = [form.format(10 * run + i) for i in range(3)]
    path = tmp_path / "chart.csv"
    pd.DataFrame(chart).to_csv(path, index=False, sep=separator)
    best = best_of(path)
    assert (best.label, best.score, best.update) == ("run-3", 32.5, 2)


@pytest.mark.parametrize("written", [str, json.dumps])
def test_cells_with_records_are_columns(tmp_path: Path, written: Any) -> None:
    """As the table that W&B's own manual makes of `wandb.Api().runs(...)`."""
    pairs = list(zip(RATES.tolist(), LOSSES.tolist(), strict=True))
    nan = "nan" if written is str else "NaN"
    summaries = [written({"val_loss": value, "_runtime": 9.5, "x": math.nan}) for _, value in pairs]
    assert nan in summaries[0]
    frame = pd.DataFrame({
        "summary": summaries,
        "config": [written({"lr": rate, "nest": {"opt": "adam"}}) for rate, _ in pairs],
        "name": [f"run-{i}" for i in range(24)],
    })  # fmt: skip
    frame.to_csv(tmp_path / "project.csv")
    found, best = read(tmp_path / "project.csv"), best_of(tmp_path / "project.csv")
    assert found.hyperparameters == ("learning_rate", "nest.opt")
    assert (best.label, best.score) == (f"run-{BEST}", pytest.approx(LOSSES[BEST]))
    scikit = pd.DataFrame({"param_C": RATES, "mean_test_score": -LOSSES})
    scikit.assign(params=[str({"C": rate}) for rate in RATES.tolist()]).to_csv(tmp_path / "cv.csv")
    assert read(tmp_path / "cv.csv").hyperparameters == ("C",), "said once"


def as_mlflow_folder(folder: Path) -> None:
    """24 runs as MLflow's file store writes them (checked against version 3.17): number 3 failed,
    the best was deleted."""
    as_file(folder / "meta.yaml", "experiment_id: '7'\nname: unlearning\nlifecycle_stage: active\n")
    for i, rate in enumerate(RATES):
        stage = "deleted" if i == BEST else "active"
        run = folder / f"r{i}"
        for kind in ("params", "metrics/system", "tags"):
            (run / kind).mkdir(parents=True)
        status = 4 if i == 3 else 3
        as_file(run / "meta.yaml", f"run_id: r{i}\nstatus: {status}\nlifecycle_stage: {stage}\n")
        as_file(run / "params" / "lr", str(rate))
        as_file(run / "params" / "seed", str(i % 3))
        as_file(run / "tags" / "mlflow.user", "me")
        as_file(run / "metrics" / "system" / "cpu", "17 50.0 0\n")
        if i != 3:
            lines = f"1795991571930 {LOSSES[i]} 30\n1795991571931 0.0 20\n1795991571932 9.0 10\n"
            as_file(run / "metrics" / "val_loss", lines)


def as_mlflow_database(path: Path) -> None:
    """The same runs in a tracking database."""
    with sqlite3.connect(path) as database:
        for table in (
            "experiments (experiment_id, name)",
            "runs (run_uuid, status, start_time, lifecycle_stage, experiment_id)",
            "params (key, value, run_uuid)",
            "latest_metrics (key, value, is_nan, run_uuid)",
        ):
            database.execute(f"CREATE TABLE {table}")
        database.execute("INSERT INTO experiments VALUES (7, 'unlearning')")
        for i, rate in enumerate(RATES):
            values = (f"r{i}", "FAILED" if i == 3 else "FINISHED", i)
            stage = "deleted" if i == BEST else "active"
            database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, 7)", (*values, stage))
            for key, value in (("lr", rate), ("seed", i % 3)):
                database.execute("INSERT INTO params VALUES (?, ?, ?)", (key, str(value), f"r{i}"))
            known = (0.0, 1, f"r{i}") if i == 5 else (LOSSES[i], 0, f"r{i}")
            if i != 3:
                database.execute("INSERT INTO latest_metrics VALUES ('val_loss', ?, ?, ?)", known)


@pytest.mark.parametrize("kind", ["mlruns", "experiment", "mlflow.db"])
def test_an_mlflow_folder_or_database_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mlruns"
    if kind == "mlflow.db":
        as_mlflow_database(path := tmp_path / kind)
    else:
        (path / "0").mkdir(parents=True)
        (path / "7").mkdir()
        as_mlflow_folder(path / "7")
        path = path if kind == "mlruns" else path / "7"
    found, best = read(path), best_of(path)
    assert found.hyperparameters == ("learning_rate",)
    assert (len(found.trials), (found.trials["status"] == "failed").sum()) == (23, 1)
    assert (found.score, best.study) == ("val_loss", "unlearning")
    second = next(int(i) for i in np.argsort(LOSSES) if i not in (3, BEST))
    assert (best.label, best.score) == (f"r{second}", pytest.approx(LOSSES[second])), "last values"
    assert ("r5" in set(trial_table(load([path])).trials.query("infeasible")["label"])) == (
        kind == "mlflow.db"
    ), "not a number there"


def test_a_damaged_mlflow_run_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    as_mlflow_folder(tmp_path)
    as_file(tmp_path / "r1" / "metrics" / "val_loss", "1795991571930 much 30\n")
    with pytest.raises(UserError, match=r"r1/metrics/val_loss: is no metric of MLflow"):
        load([tmp_path])


def test_mlflow_runs_are_read_by_their_prefixes(tmp_path: Path) -> None:
    states = ["FINISHED", "FINISHED", "FAILED", "KILLED"] * 6
    frame = pd.DataFrame({
        "run_id": [f"r{i}" for i in range(24)], "experiment_id": 1, "status": states,
        "start_time": "2026-01-01", "metrics.val_loss": LOSSES, "params.lr": RATES.astype(str),
        "params.seed": [i % 3 for i in range(24)], "tags.mlflow.user": "me",
    })  # fmt: skip
    frame.to_csv(tmp_path / "runs.csv", index=False)
    found, best = read(tmp_path / "runs.csv"), best_of(tmp_path / "runs.csv")
    assert found.hyperparameters == ("learning_rate",)
    finished = np.array([state == "FINISHED" for state in states])
    assert best.label == f"r{int(np.where(finished, LOSSES, np.inf).argmin())}"
    assert found.trials["status"].value_counts().to_dict() == {"complete": 12, "failed": 12}


def test_deepcave_says_itself_what_is_maximised(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    configs = {str(i): {"alpha": rate} for i, rate in enumerate(RATES)}
    as_file(folder / "configs.json", json.dumps(configs))
    quality = {"name": "merit", "lower": 0, "upper": 1, "optimize": "upper"}
    as_file(folder / "meta.json", json.dumps({"objectives": [quality]}))
    space = {"type": "uniform_float", "name": "alpha", "lower": 1e-9, "upper": 1, "log": True}
    as_file(folder / "configspace.json", json.dumps({"hyperparameters": [space]}))
    lines = [
        [i, budget, 0, [None if i == BEST else -LOSSES[i] - 1 / budget], 0.0, 0.0, 1.0,
         7 if i == BEST else 1, {}]
        for i in range(24) for budget in (20, 60)
    ]  # fmt: skip
    as_file(folder / "history.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    found, best = read(folder), best_of(folder)
    assert (found.score, found.maximise, found.hyperparameters) == ("merit", True, ("alpha",))
    second = int(np.argsort(LOSSES)[1])
    assert (best.label, best.update) == (f"{second} seed 0", 60), "the best one failed"
    assert (found.trials["status"] == "failed").sum() == 1
    (axis,) = trial_table(load([folder])).axes[""]
    assert (axis.low, axis.high, axis.bounds_known) == (1e-9, 1, True)
    frame = pd.DataFrame({
        "config_id": range(24), "alpha": RATES, "metric:merit [0.0; 1.0] (maximize)": -LOSSES,
        "status": "success", "start_time": 0, "end_time": 1, "budget": 1, "seed": -1,
        "additional": "",
    })  # fmt: skip
    frame.to_csv(tmp_path / "trials.csv", index=False)
    found, best = read(tmp_path / "trials.csv"), best_of(tmp_path / "trials.csv")
    assert (found.maximise, found.hyperparameters) == (True, ("alpha",))
    assert (best.label, best.score) == (str(BEST), pytest.approx(-LOSSES[BEST]))


def test_open_unlearning_is_read_from_its_folders(tmp_path: Path) -> None:
    for i in range(4):
        task = tmp_path / "unlearn" / f"tofu_forget10_GradDiff_lr{RATES[i]:.0e}_alpha{i}_epoch10"
        (task / "evals").mkdir(parents=True)
        summary = {"forget_quality": i / 10, "model_utility": 0.6}
        as_file(task / "evals" / "TOFU_SUMMARY.json", json.dumps(summary))
    configured = tmp_path / "unlearn" / "npo_run"
    (configured / ".hydra").mkdir(parents=True)
    as_file(
        configured / ".hydra" / "config.yaml",
        "trainer: {handler: NPO, args: {learning_rate: 2.0e-5, output_dir: x}, "
        "method_args: {beta: 0.5}}\nforget_split: forget10\n",
    )
    (configured / "checkpoint-60" / "evals").mkdir(parents=True)
    as_file(
        configured / "checkpoint-60" / "evals" / "TOFU_SUMMARY.json",
        '{"forget_quality": 0.9, "model_utility": 0.5}',
    )
    full = tmp_path / "eval" / "tofu_Llama_full"
    full.mkdir(parents=True)
    as_file(full / "TOFU_SUMMARY.json", '{"forget_quality": 0.01, "model_utility": 0.6}')
    found = read(tmp_path, score="forget_quality")
    assert found.maximise
    assert found.hyperparameters == ("alpha", "beta", "learning_rate", "num_train_epochs")
    table = trial_table(load([tmp_path], score="forget_quality"))
    assert table.nothing == {"forget10": -0.01}, "the full model is doing nothing, no trial"
    best = derive_guidelines([tmp_path], score="forget_quality").best_trials
    npo = next(one for one in best if one.method == "NPO")
    assert npo.hyperparameters == {"learning_rate": 2e-5, "beta": 0.5}
    assert (npo.score, npo.update) == (0.9, 60)


def test_words_for_failures_do_not_end_the_report(tmp_path: Path) -> None:
    scores = ["FAIL", "OOM", "diverged", "-", "nan", *map(str, LOSSES[5:])]
    text = "exp,lr,layers,loss\n" + "".join(
        f'e{i},{RATES[i]},"[{i % 2}, 7]",{score}\n' for i, score in enumerate(scores)
    )
    path = as_file(tmp_path / "t.csv", text)
    found = read(path)
    assert list(found.trials.sort_values("label")["status"])[:2] == ["failed", "out_of_memory"]
    assert list(trial_table(load([path])).left_out["status"]) == ["failed", "complete"]
    assert found.hyperparameters == ("layers", "learning_rate")
    assert best_of(path).label == f"e{5 + int(LOSSES[5:].argmin())}"
    assert (read(path, failed=["nan"]).trials["status"] == "failed").sum() == 2
    odd = as_file(tmp_path / "odd.csv", text.replace("FAIL", "kaputt"))
    with pytest.raises(UserError, match=r"got 'kaputt' in line 2; .*--failed WORD"):
        load([odd])
    assert (read(odd, failed=["KAPUTT"]).trials["status"] == "failed").sum() == 1


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("a.csv", "lr;opt;retain_acc\n1e-5;a;12,5 %\n1e-4;b;50,25 %\n", "utf-8"),
        ("b.tsv", "lr\topt\tretain_acc\n1e-5\ta\t12,5\n1e-4\tb\t50,25\n", "utf-8-sig"),
        ("c.csv", "lr|opt|retain_acc\r\n1e-5|a|12.5\r\n1e-4|b|50.25\r\n\r\n", "utf-16"),
        ("d.csv", 'lr,opt,retain_acc\n1e-5,a,"12,5"\n1e-4,b,"50,25"\n', "utf-8-sig"),
        (
            "e.jsonl",
            '{"config": {"lr": 1e-5, "opt": "a"}, "retain_acc": 12.5}\n\n'
            '{"config": {"lr": 1e-4, "opt": "b"}, "retain_acc": 50.25}\n',
            "utf-8",
        ),
        (
            "f.json",
            '[{"lr": 1e-5, "opt": "a", "retain_acc": 12.5},'
            '{"lr": 1e-4, "opt": "b", "retain_acc": 50.25}]',
            "utf-8",
        ),
        ("h.txt", "LR\topt\tretain acc\n1e-5\ta\t12.5\n1e-4\tb\t50.25 \u00b1 0.5\n", "utf-8"),
        ("i.CSV", "lr,opt,retain_acc\n1e-5,a,12.5,,\n1e-4,b,50.25\n", "utf-8"),
        ("j.csv", "opt,lr,retain_acc,note\na,1e-5,12.5\nb,1e-4,50.25\n", "utf-8"),
        (
            "k.json",
            '{"lr": {"0": 1e-5, "1": 1e-4}, "opt": {"0": "a", "1": "b"}, '
            '"retain_acc": {"0": 12.5, "1": 50.25}}',
            "utf-8",
        ),
        (
            "l.json",
            '{"columns": ["lr", "opt", "retain_acc"], "index": [0, 1], '
            '"data": [[1e-5, "a", 12.5], [1e-4, "b", 50.25]]}',
            "utf-8",
        ),
        ("m.csv", "Learning Rate,opt,retain_acc\n1e-5,a,12.5\n1e-4,b,50.25\n", "utf-8"),
        ("g.json", '{"lr": [1e-5, 1e-4], "opt": ["a", "b"], "retain_acc": [12.5, 50.25]}', "utf-8"),
    ],
)
def test_the_form_of_a_table_does_not_matter(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    best = best_of(as_file(tmp_path / name, text, encoding=encoding, newline=""))
    assert best.score == 50.25
    assert best.hyperparameters == {"learning_rate": 1e-4, "opt": "b"}


def test_cells_that_are_missing_in_a_line_are_said_to_be(tmp_path: Path) -> None:
    path = as_file(tmp_path / "t.csv", "lr,loss,note\n1,2,x\n2,1\n3\n4,4,x,\n")
    found = read(path)
    assert any("too few cells in line 3, 4" in note for note in found.notes)
    assert (len(found.trials), found.missing) == (4, 1)


def test_steps_with_fractions_are_read_and_written(tmp_path: Path) -> None:
    lines = "".join(f"{rate},{i % 7 + 0.5},{LOSSES[i]}\n" for i, rate in enumerate(RATES))
    path = as_file(tmp_path / "t.csv", f"lr,steps,loss\n{lines}")
    best = best_of(path)
    assert (best.update, best.hyperparameters["steps"]) == (BEST % 7 + 0.5, BEST % 7 + 0.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"lr,loss\n1,2\n1,2,3\n", "line 3 has 3 cells, the header has 2"),
        ("l.csv", "naïve,loss\n1,2\n".encode("latin-1"), "is no UTF-8 text"),
        ("t.json", b'[{"lr": 1', "is no JSON"),
        ("t.jsonl", b'{"lr": 1}\n{"lr":\n', "line 2 is no JSON"),
        ("n.jsonl", b"1\n", "line 1 is no record"),
    ],
)
def test_a_damaged_table_is_an_error_that_names_the_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        load([tmp_path / name])


def test_a_table_of_curves_needs_no_trial_column(tmp_path: Path) -> None:
    lines = [(r, s, e, loss(r) + 1 / (e + 1)) for r in RATES[:5] for s in (0, 1) for e in range(4)]
    frame = pd.DataFrame(lines, columns=["lr", "seed", "epoch", "val_loss"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = read(tmp_path / "t.csv")
    assert len(found.trials) == 10
    assert best_of(tmp_path / "t.csv").update == 3


def test_replicates_without_seeds_count_as_seeds_and_copies_do_not(tmp_path: Path) -> None:
    lines = [f"{rate},{loss(rate) + s / 10}" for rate in RATES[:4] for s in range(3)]
    path = as_file(tmp_path / "t.csv", "\n".join(["lr,loss", *lines, lines[0]]) + "\n")
    found = read(path)
    assert (len(found.trials), found.duplicates) == (12, 1)
    assert found.trials["seed"].value_counts().to_dict() == {0.0: 4, 1.0: 4, 2.0: 4}
    few = as_file(tmp_path / "few.csv", "lr,loss\n1,1\n1,2\n2,1\n3,1\n4,1\n5,1\n")
    assert read(few).trials["seed"].isna().all()


def test_the_vanilla_model_is_doing_nothing_and_no_trial(tmp_path: Path) -> None:
    text = "Method,LR,retain_acc\nVanilla,-,0.9\nretrain,-,0.99\n" + "".join(
        f"npo,{rate},{0.5 + i / 100}\n" for i, rate in enumerate(RATES)
    )
    path = as_file(tmp_path / "t.csv", text)
    table = trial_table(load([path]))
    assert (len(table.trials), table.nothing) == (24, {"": -0.9})
    assert best_of(path).score == pytest.approx(0.73)
    trained = as_file(tmp_path / "b.csv", text.replace("Vanilla,-", "baseline,1e-5"))
    assert "baseline" in set(read(trained).trials["method"]), "it was trained, so it is a trial"


@pytest.mark.parametrize(
    ("name", "higher", "known"),
    [
        ("val_accuracy", True, True),
        ("eval/loss", False, True),
        ("mia_auc", False, True),
        ("model_utility", True, True),
        ("forget_quality", True, True),
        ("forget_rouge1", False, False),
        ("forget_ppl", False, False),
        ("value", False, False),
    ],
)
def test_the_direction_is_told_by_the_name_or_said_to_be_assumed(
    name: str, higher: bool, known: bool, tmp_path: Path
) -> None:
    assert higher_is_better(name)[0] == higher
    path = as_file(tmp_path / "t.csv", f"lr,{name}\n1e-5,1\n1e-4,2\n")
    found = read(path, score=name)
    assert any(f"`{name}` counts as better" in note for note in found.notes) != known
    assert best_of(path, score=name, maximise=True).score == 2
    assert best_of(path, score=name, maximise=False).score == 1
