"""The tabular benchmark: thousands of unlearning trials that were run, to look up instead of run.

    from ray_unlearn.tabular import TabularProblem, load_table

    rows = load_table("table/")                          # a pandas data frame
    problem = TabularProblem("table/", "shakespeare", "ascent_kl_in_distribution")
    optuna.create_study(directions=problem.directions).optimize(problem, n_trials=30)

It needs numpy, pandas and pyarrow alone; the adapters need Optuna or Syne Tune once they are asked
for a search space. docs/tabular_benchmark.md says what is in the table and what it cannot tell.
"""

from ray_unlearn.tabular.method_table import MethodTable
from ray_unlearn.tabular.tabular_blackbox import TabularBlackbox
from ray_unlearn.tabular.tabular_files import FACTS, load_facts, load_table
from ray_unlearn.tabular.tabular_problem import TabularProblem

__all__ = [
    "FACTS",
    "MethodTable",
    "TabularBlackbox",
    "TabularProblem",
    "load_facts",
    "load_table",
]
