"""Weights and hidden states that lanes share: read in place, the same results, and never a bit
changed."""

import pickle

import numpy as np
import pytest
import torch
from test_loop import ON_TEXTS, config, run, weights
from test_precision import with_model

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import EVALUATED, prepare
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.policy import WholeModel
from ray_unlearn.unlearn.weight_sharing import SharedModel
from ray_unlearn.unlearn.workspace import Workspace


def opened(spec: StudySpec, shared: SharedModel | None = None) -> Workspace:
    data = prepare(spec.data, spec.model)
    return Workspace.open(
        spec.model, data, spec.evaluation, spec.operations, Comm.single(), shared=shared
    )


def through_a_store(shared: SharedModel) -> tuple[SharedModel, list[bytearray]]:
    """As Ray's object store hands it out: arrays over foreign memory, flagged read-only."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    memory = [bytearray(buffer.raw()) for buffer in buffers]
    return pickle.loads(content, buffers=[memoryview(part).toreadonly() for part in memory]), memory


@pytest.mark.parametrize(
    "values", [{}, {"dtype": "bfloat16"}, {"lora": {"rank": 4}}], ids=["whole", "bf16", "lora"]
)
def test_shared_weights_are_read_in_place_and_never_changed(
    tiny_study: StudySpec, values: dict
) -> None:
    spec = with_model(tiny_study, **values)
    shared, memory = through_a_store(SharedModel.of(load_model(spec.model)))
    before = [bytes(part) for part in memory]
    mine, theirs = opened(spec, shared), opened(spec)
    owners = {array.__array_interface__["data"][0] for array in shared.arrays.values()}
    frozen = mine.policy.vanilla if isinstance(mine.policy, WholeModel) else mine.policy.model
    found = {p.data_ptr() for name, p in frozen.named_parameters() if "lora" not in name}
    assert found <= owners, "no copy was made of what is only read"
    if isinstance(mine.policy, WholeModel):
        assert not {p.data_ptr() for p in mine.parameters} & owners, "what is trained is a copy"
    for method in ON_TEXTS:
        assert run(mine, config(method)) == run(theirs, config(method)), method
    run(mine, config("random_labels", learning_rate=1e6))
    mine.reset()
    assert [bytes(part) for part in memory] == before


def test_tied_weights_stay_tied(tiny_study: StudySpec) -> None:
    shared = SharedModel.of(load_model(tiny_study.model))
    model = shared.model()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared.nbytes == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_lanes_quantities_give_the_same_trial(tiny_study: StudySpec, dtype: str) -> None:
    spec = with_model(tiny_study, dtype=dtype)
    first, second = opened(spec), opened(spec)
    found = pickle.loads(
        pickle.dumps(first.quantities(["adversarial_samples", "ascent_kl_general"]), protocol=5)
    )
    assert set(found["hidden"]) == {*EVALUATED.values(), "general_retain"}
    for array, _ in found["hidden"].values():
        array.flags.writeable = False
    second.adopt(found)
    calls: list[int] = []
    assert isinstance(second.policy, WholeModel)
    second.policy.vanilla.register_forward_hook(lambda *_: calls.append(1))
    second.policy.vanilla.model.register_forward_hook(lambda *_: calls.append(1))
    for method in ("adversarial_samples", "ascent_kl_general"):
        assert run(second, config(method)) == run(first, config(method))
        assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(first), strict=True))
    assert calls == [], "P_0 was not asked again"


def test_what_does_not_fit_is_not_kept(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then P_0 is asked each time: to rounding (other batches) the same trial."""
    expected, _ = run(opened(tiny_study), config("ascent_kl_general"))
    monkeypatch.setattr("ray_unlearn.unlearn.reference.CACHE_BYTES", 0)
    workspace = opened(tiny_study)
    assert workspace.quantities(["ascent_kl_general"])["hidden"] == {}
    found, _ = run(workspace, config("ascent_kl_general"))
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)
    assert not np.isnan([row["forget_kl"] for row in found]).any()
