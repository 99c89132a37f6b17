"""A lane's memory: at most twice weights, gradients and optimizer states, and a batch of
activations; and what `plan` says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.memory import Memory, memory, remedies
from ray_unlearn.unlearn.plan import plan, problems

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.workspace import Workspace

torch.set_num_threads(1)
spec = StudySpec.model_validate_json(Path(sys.argv[1]).read_text())
data = prepare(spec.data, spec.model, Path(sys.argv[2]))
config = TrialConfig(learning_rate=1e-4, steps=2, method="ascent_kl_in_distribution", batch_size=2, evaluate_at=(2,))
small = Workspace.open(spec.model, data, spec.evaluation, spec.operations, Comm.single())
list(unlearn(small, config))  # libraries and their buffers are loaded now
small.restart_peak_memory()
before = small.peak_memory_gib()
large = LlamaConfig(vocab_size=300, hidden_size=768, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=12,
                    max_position_embeddings=64, tie_word_embeddings=True)
LlamaForCausalLM(large).save_pretrained(sys.argv[2])
del small
workspace = Workspace.open(spec.model.model_copy(update={"source": sys.argv[2]}), data, spec.evaluation, spec.operations, Comm.single())
row, _ = unlearn(workspace, config)
weights = sum(p.nbytes for p in workspace.parameters) / 2**30
print(json.dumps({"grown": row["peak_memory_gib"] - before, "weights": weights}))
"""


def test_peak_of_a_lane(tiny_study: StudySpec, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(tiny_study.model_dump_json())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "spec.json"), str(tmp_path / "large")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    weights = found["weights"]
    assert weights > 0.15
    # 2 sequences of 48 tokens through 6 layers of 768: 34 values of 4 bytes per token, unit and
    # layer
    activations = 2 * 48 * 768 * 34 * 4 * 6 / 2**30
    assert found["grown"] <= 2 * (weights + weights + 2 * weights) + activations
    assert (
        found["grown"] >= 4 * weights
    )  # the measurement sees policy, gradients and optimizer at least


ESTIMATE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.memory import memory
from ray_unlearn.unlearn.workspace import Workspace

torch.set_num_threads(1)
given = json.loads(sys.argv[3])
def with_model(**values):
    model = ModelSpec.model_validate(spec.model.model_dump() | given["model"] | values)
    return spec.model_copy(update={"model": model, "operations": spec.operations.model_copy(update=given["operations"])})
spec = StudySpec.model_validate_json(Path(sys.argv[1]).read_text())
data = prepare(spec.data, spec.model, Path(sys.argv[2]))
config = TrialConfig(learning_rate=1e-4, steps=2, method="ascent_kl_in_distribution", batch_size=16, evaluate_at=(2,))
def opened(spec):
    return Workspace.open(spec.model, data, spec.evaluation, spec.operations, Comm.single())
small = opened(with_model())
list(unlearn(small, config))  # libraries and their buffers are loaded now
large = LlamaConfig(vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
                    max_position_embeddings=64, tie_word_embeddings=True)
LlamaForCausalLM(large).save_pretrained(sys.argv[2])
small.restart_peak_memory()
before = small.peak_memory_gib()
del small
spec = with_model(source=sys.argv[2])
row = next(iter(unlearn(opened(spec), config)))
found = memory(spec, AutoConfig.from_pretrained(sys.argv[2]), 16)
print(json.dumps({"grown": row["peak_memory_gib"] - before, "estimate": found.total}))
"""


@pytest.mark.parametrize(
    ("model", "operations"),
    [
        ({}, {}),
        pytest.param(
            {"dtype": "bfloat16"}, {"activation_checkpointing": True}, marks=pytest.mark.slow
        ),
        ({"lora": {"rank": 16}}, {}),
    ],
    ids=["float32", "bfloat16, checkpointed", "lora"],
)
def test_the_plan_estimates_the_measured_peak(
    tiny_study: StudySpec, tmp_path: Path, model: dict, operations: dict
) -> None:
    """34 M parameters: within a third, either way."""
    (tmp_path / "spec.json").write_text(tiny_study.model_dump_json())
    given = json.dumps({"model": model, "operations": operations})
    command = [
        sys.executable,
        "-c",
        ESTIMATE,
        str(tmp_path / "spec.json"),
        str(tmp_path / "large"),
        given,
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 < found["estimate"] / found["grown"] < 1.33, found


class TestPlan:
    def problems(
        self, spec: StudySpec, memory_gib: float = 1e6, gpu_gib: float | None = None
    ) -> list[str]:
        return list(problems(plan(spec), 1e6, memory_gib, 1e6, spec, gpu_gib))

    def test_out_of_memory_is_found_before_anything_starts(self, tiny_study: StudySpec) -> None:
        assert self.problems(tiny_study) == []
        (problem,) = self.problems(tiny_study, memory_gib=0.1)
        assert "use fewer lanes, or `" in problem
        assert "GiB per worker instead of" in problem

    def test_gpu_memory_is_another_limit_than_the_hosts(self, tiny_study: StudySpec) -> None:
        operations = tiny_study.operations.model_copy(update={"gpus_per_worker": 0.5})
        spec = tiny_study.model_copy(update={"operations": operations})
        assert self.problems(spec, gpu_gib=80.0) == []
        (problem,) = self.problems(spec, gpu_gib=0.2)
        assert "GPU memory" in problem
        assert "its share is 0.1" in problem

    def test_the_advice_is_the_mildest_that_fits(self, tiny_study: StudySpec) -> None:
        config = LlamaConfig(
            vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8
        )
        before = memory(tiny_study, config, 64)
        named = dict(remedies(tiny_study, config, 64))
        assert next(iter(named)) == "operations.micro_batch_size: 1"
        assert all(found.total < before.total for found in named.values())
        assert named["operations.activation_checkpointing: true"].activations < before.activations
        one = dict(remedies(tiny_study, config, 1))
        assert "operations.micro_batch_size: 1" not in one
        assert (
            one["model.lora: {rank: 16} (another way to unlearn)"].optimizer < before.optimizer / 10
        )

    def test_sharding_divides_what_is_divided(
        self, tiny_model: Path, tiny_study: StudySpec
    ) -> None:
        config = AutoConfig.from_pretrained(tiny_model)

        def of(**values: object) -> Memory:
            operations = tiny_study.operations.model_copy(update={"workers_per_lane": 4} | values)
            return memory(tiny_study.model_copy(update={"operations": operations}), config, 4)

        whole, part = of(), of(parallel="shard")
        for name in ("weights", "gradients", "optimizer"):
            assert getattr(part, name) == pytest.approx(getattr(whole, name) / 4)
        assert part.activations == whole.activations
