"""The front door: everything that the command line does, from Python and from a notebook.

    import ray_unlearn as ru

    study = ru.run("my_study.yaml", "results/my-study", lanes=2)
    study.best                      # the best configuration and its scores
    study.trials, study.rows        # pandas data frames
    study.resume(trials=5)
    study.confirm(top=3, seeds=5)
    study.export("model/", trial="best")

    guide = ru.guidelines(study, "others.csv")
    guide.narrow("next.yaml")
    ru.report(study, "others.csv", out="report/")

Running something loads Ray and torch; asking for a data frame loads pandas. Returned objects are
complete: they stay valid after the study is gone.
"""

from ray_unlearn.api.guide import Guide, Report, guidelines, narrow, report
from ray_unlearn.api.memorising import memorise
from ray_unlearn.api.start import methods, open, run
from ray_unlearn.api.study_handle import Study

__all__ = [
    "Guide",
    "Report",
    "Study",
    "guidelines",
    "memorise",
    "methods",
    "narrow",
    "open",
    "report",
    "run",
]
