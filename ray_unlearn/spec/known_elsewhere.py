"""What Optuna and OpenUnlearning call otherwise, and what it is here: the ends of error messages.

Whoever comes from there tries the names that they know. A name is an entry once someone has tried
it (docs/from_optuna.md, docs/from_openunlearning.md), and names what to write in its place.
"""

from collections.abc import Mapping

ALIASES = {
    "learning_rate": ("lr", "learningrate", "peak_lr", "max_lr", "lr_peak"),
    "batch_size": (
        "bs", "batchsize", "train_batch_size",
    ),
    "steps": ("max_steps", "num_steps", "n_steps", "total_steps", "train_steps", "num_updates"),
    "weight_decay": ("wd", "weightdecay"),
    "w_r": ("retain_weight", "retain_coef", "retain_coeff"),
    "w_f": ("forget_weight", "forget_coef", "forget_coeff"),
    "schedule": ("lr_schedule", "lr_scheduler", "lr_scheduler_type"),
    "warmup_steps": ("num_warmup_steps",),
    "max_grad_norm": ("grad_clip", "gradient_clipping", "clip_grad_norm", "max_norm"),
    "adam_beta1": ("beta1",),
    "adam_beta2": ("beta2",),
}  # fmt: skip
"""Our hyperparameters under names that are usual elsewhere, and mean the same."""

EPOCHS = "`steps`, in updates: epochs x forget sequences / batch_size"
SETTINGS = {theirs: f"`{ours}`" for ours, names in ALIASES.items() for theirs in names} | {
    "alpha": "`w_r`",
    "gamma": "`w_f`",
    "epochs": EPOCHS,
    "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": "`batch_size`, of a whole update",
    "gradient_accumulation_steps": "`batch_size`, of a whole update",
    "warmup_epochs": "`warmup_ratio`, a part of all updates",
    "steering_coeff": "`steering`",
    "retain_loss_type": "the method's name: ..._descent_... (NLL) or ..._kl_... (KL)",
}
"""Hyperparameters."""

DESCENT_OR_KL = "`{0}_descent_in_distribution`, or with KL `{0}_kl_in_distribution`"
METHOD_NAMES = {
    "gradascent": "`gradient_ascent`",
    "graddiff": DESCENT_OR_KL.format("ascent"),
    "npo": DESCENT_OR_KL.format("npo"),
    "simnpo": "`simnpo_descent_in_distribution`",
    "dpo": "`dpo_descent_in_distribution`",
    "idkdpo": "`dpo_descent_in_distribution`, its refusals come along",
    "altpo": "`dpo_descent_in_distribution`, with `alternative` answers in the forget split",
    "idknll": "`idk_descent_in_distribution`",
    "rmu": "`rmu`",
    "undial": "`undial`, or with alpha above 0 `undial_descent_in_distribution`",
    "wga": "`wga_descent_in_distribution`",
    "satimp": "`satimp_descent_in_distribution`",
    "ceu": "a method of your own, one function (docs/methods.md)",
    "pdu": "a study with `objective.subject_to`, or a method of your own (docs/methods.md)",
}
"""Trainers of OpenUnlearning, lower case."""

TRIALS = "`search.trials_per_method`"
ADDED = "`resume(trials=N)`; the first ones may be listed in `search.warm_start`"
KEYS = {
    "n_trials": TRIALS,
    "num_samples": TRIALS,
    "pruner": "`scheduler`, such as {type: median}",
    "direction": "`objective.minimise` or `objective.maximise`; scores are better low",
    "directions": "`objective.pareto: true`",
    "maximize": "`maximise`",
    "minimize": "`minimise`",
    "study_name": "`name`",
    "storage": "an option of `run`: --storage results/NAME",
    "n_jobs": "`operations.lanes`",
    "log": "`scale: log`",
    "suggest_float": "{type: float, low: ..., high: ..., scale: log}",
    "suggest_int": "{type: int, low: ..., high: ...}",
    "suggest_categorical": "{type: choice, choices: [...]}",
    "trainer": "`methods`, and their values in `space_overrides`",
    "experiment": "a study file of its own, such as studies/tofu_forget10.yaml",
    "task_name": "`name`",
    "eval": "`evaluation`",
    "forget_split": "`data.splits.forget`",
    "retain_split": "`data.splits.retain`",
    "holdout_split": "`data.splits.approximate`",
    "retain_logs_path": "`model.exact_retrain`, the retrained model itself",
    "pretrained_model_name_or_path": "`model.source`",
    "model_args": "`model.source` and `model.dtype`",
    "torch_dtype": "`dtype`",
    "attn_implementation": "`attention`",
    "question_key": "`prompt`",
    "answer_key": "`answer`",
    "max_length": "`data.sequence_length`",
} | {name: where for name, where in SETTINGS.items() if name not in ("alpha", "gamma")}
"""Keys of a study file."""

VALUES = {
    "TPESampler": "`tpe`",
    "RandomSampler": "`random`",
    "GridSampler": "`grid`",
    "QMCSampler": "`qmc`",
    "NSGAIISampler": "`nsga2`",
    "GPSampler": "`gp`",
    "MedianPruner": "{type: median}",
    "SuccessiveHalvingPruner": "{type: asha}",
    "HyperbandPruner": "{type: asha}",
    "NopPruner": "{type: none}",
    "categorical": "`choice`",
    "uniform": "`float`",
    "loguniform": "`float` with `scale: log`",
}
"""Values of a study file."""

METRICS = {
    "privleak": "`priv_leak`, with `evaluation.priv_leak: true` and `model.exact_retrain`",
    "extraction_strength": "`forget_extraction_strength`",
    "exact_memorization": "`forget_exact_memorisation`",
    "forget_Q_A_Prob": "`forget_nll`, or with `perturbed` answers `forget_probability`",
    "forget_Q_A_ROUGE": "`forget_rouge_l`, with `evaluation.generate`",
    "forget_Truth_Ratio": "`forget_truth_ratio`, with `perturbed` answers of the forget split",
    "forget_verbmem_ROUGE": "`forget_rouge_l_f1`, with `evaluation.generate`",
    "retain_knowmem_ROUGE": "`SET_rouge_l_f1` of a watched set, with `evaluation.generate`",
    "mia_loss": "`mia_loss_auc`",
    "mia_zlib": "`mia_zlib_auc`",
    "mia_min_k": "`mia_min_k_40_auc`",
    "mia_min_k_plus_plus": "`mia_min_k_pp_40_auc`",
}
"""Metrics of OpenUnlearning."""

WRITTEN = "`init`, which writes a study file, then `run`"
COMMANDS = {
    "create-study": WRITTEN,
    "optimize": "`run STUDY.yaml`",
    "tune": "`run STUDY.yaml`",
    "studies": "`ls`",
    "list": "`ls`",
    "best-trial": "`status STUDY`",
    "best-trials": "`status STUDY`",
    "trials": "`export STUDY -o rows.csv`, or `study.trials` from Python",
    "ask": "`run STUDY.yaml`: a study computes its own trials",
    "tell": "`run STUDY.yaml`: a study computes its own trials",
    "enqueue": "`search.warm_start` of the study file",
    "dashboard": "`watch STUDY --html page.html`, or optuna-dashboard STUDY/optuna.journal",
    "train": "`run STUDY.yaml`; for one trial `unlearn STUDY.yaml --method M`",
    "finetune": "`memorise`",
    "eval": "`evaluate` for tasks of lm-eval; other metrics are `evaluation` of a study file",
}
"""Commands of Optuna, and scripts of OpenUnlearning."""

IN_THE_FILE = "a value in the study file; for one trial: `unlearn STUDY.yaml --method M --set k=v`"
FLAGS = {
    "--n-trials": f"{TRIALS} of the study file; for more later, `resume STUDY --trials N`",
    "--study-name": "`name` of the study file",
    "--direction": "`objective` of the study file",
    "--sampler": "`search.sampler` of the study file",
    "--pruner": "`search.scheduler` of the study file",
    "--n-jobs": "`--lanes`",
    "--timeout": "Ctrl-C, and later `resume`",
    "--config-name": "the study file itself: `run STUDY.yaml`",
    "--multirun": "a range in `space_overrides` of the study file",
}
"""Options."""

FUNCTIONS = {
    "create_study": "`run`, of a study file (`ray-unlearn init` writes one)",
    "load_study": "`open`",
    "load": "`open`",
    "delete_study": "the study's folder: remove it",
    "get_all_study_names": "`ray-unlearn ls`",
    "get_all_study_summaries": "`ray-unlearn ls --json`",
    "samplers": "`search.sampler` of a study file",
    "pruners": "`search.scheduler` of a study file",
    "storages": "`run(study, location)`",
    "visualization": "`report`",
    "importance": "`report`, `guidelines`",
    "unlearn": "`run`; for one trial the command `ray-unlearn unlearn`",
    "evaluate": "`open(location).evaluate`",
}
"""Names of the package."""

ATTRIBUTES = {
    "best_trial": "`best`",
    "best_trials": "`best`, and `best_of(method)`",
    "best_params": "`best.hyperparameters`",
    "best_value": "`best.score_selection`, and to quote `best.score_reporting`",
    "trials_dataframe": "`trials`, a data frame",
    "get_trials": "`trials`, a data frame",
    "optimize": "`resume(trials=N)`",
    "enqueue_trial": ADDED,
    "add_trial": ADDED,
    "ask": "`resume(trials=N)`: a study computes its own trials",
    "tell": "`resume(trials=N)`: a study computes its own trials",
    "stop": "Ctrl-C in the process that runs it, and later `resume()`",
    "direction": "`spec.objective`; scores are better low",
    "directions": "`spec.objective`; scores are better low",
    "sampler": "`spec.search.sampler`",
    "pruner": "`spec.search.scheduler`",
    "study_name": "`spec.name`",
    "name": "`spec.name`",
    "user_attrs": "`rows`, which has every metric",
    "set_user_attr": "`description` of the study file",
}
"""Attributes of a study."""


def elsewhere(table: Mapping[str, str], name: object) -> str:
    """`; here it is ...`, where a table has the name or its last part; else nothing."""
    where = table.get(str(name).rpartition(".")[2])
    return f"; here it is {where}" if where else ""
