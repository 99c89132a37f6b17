"""A lane's memory: at most twice weights, gradients and optimizer states, and a batch of activations."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ray_unlearn.spec.study import StudySpec

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from ray_unlearn.spec.study import StudySpec
from ray_unlearn.spec.trial import TrialConfig
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
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    weights = found["weights"]
    assert weights > 0.15
    # 2 sequences of 48 tokens through 6 layers of 768: 34 values of 4 bytes per token, unit and layer
    activations = 2 * 48 * 768 * 34 * 4 * 6 / 2**30
    assert found["grown"] <= 2 * (weights + weights + 2 * weights) + activations
    assert found["grown"] >= 4 * weights  # the measurement sees policy, gradients and optimizer at least
