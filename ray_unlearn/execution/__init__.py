"""Running a study with Ray Tune and Ray Train: the only package that imports ray.

Ray reads some of its switches when it is imported, so they are set here, before any module below
imports it. A value that the user has set stays. The effect of each was measured: without them a
study of 6 trials prints 325 lines.
"""

import os

_QUIET_AND_QUICK = {
    # a lane's thread that outlives the main thread would start a new Ray
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # 2 by default: a dead worker, or the end, goes unnoticed for that long
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # study.py handles Ctrl-C
    # Tune's snapshots are of no use here: the ledger is the record
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",  # the searcher may take seconds, and a row waits for the disk
}
for _name, _value in _QUIET_AND_QUICK.items():
    os.environ.setdefault(_name, _value)
