"""Any seed that a study file accepts works in every precision: a date as seed failed every trial
with bfloat16 weights."""

import pytest

from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.single_trial import Single

PRECISIONS: dict[str, dict[str, object]] = {
    "float32": {},
    "autocast": {"autocast": "bfloat16"},
    "bfloat16, stochastic": {"dtype": "bfloat16", "rounding": "stochastic"},
    "bfloat16, exact": {"dtype": "bfloat16", "rounding": "exact"},
    "adapters": {"lora": LoraSpec(rank=2, alpha=4)},
}
SEEDS = (20240611, 2**32, 2**63 - 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_seed_runs_a_trial(tiny_study: StudySpec, precision: str) -> None:
    model = tiny_study.model.model_copy(update=PRECISIONS[precision])
    single = Single(tiny_study.model_copy(update={"model": model}))
    baselines = single.baselines()
    point = Hyperparameters(learning_rate=1e-3, steps=1, batch_size=4)
    for seed in SEEDS:
        for method in ("gradient_ascent", "random_labels"):
            trial = single.spec.trial_config(point, method, seed, single.context)
            rows: list[Row] = []
            assert single.run(trial, baselines, rows.append).status == "complete"
            assert [row["update"] for row in rows] == [1]
