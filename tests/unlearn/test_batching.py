"""Batches without padding: the same targets, the same hidden states, the same trajectories as
padded ones."""

import numpy as np
import pytest
import torch
from test_loop import config, fresh, run, weights
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn import workspace as workspace_module
from ray_unlearn.unlearn.batch import ATTENTION, Batch, padded, ragged, target_documents
from ray_unlearn.unlearn.layout import choose_layout
from ray_unlearn.unlearn.model import hidden_states
from ray_unlearn.unlearn.token_set import TokenSet

PACKED = TokenSet(
    input_ids=np.array(
        [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [10, 11, 12, 13, 14, 0]], dtype=np.int32
    ),
    document=np.array(
        [[0, 0, 1, 1, 1, 2], [2, 2, 2, -1, -1, -1], [3, 3, 4, 4, 4, -1]], dtype=np.int32
    ),
    compressed_bytes=np.ones(5, dtype=np.int32),
    selection=np.ones(5, dtype=bool),
)


def test_by_hand(device: torch.device) -> None:
    """Documents of 2, 3 and 1 tokens; one that goes on in the next sequence does not attend
    across."""
    batch = ragged(PACKED, np.array([0, 1]), device)
    assert batch.document_lengths == (3, 3, 2, 1)
    assert batch.input_ids.tolist() == [[3, 4, 5, 7, 8, 9, 1, 2, 6]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1, 0]]
    assert batch.targets.tolist() == [2, 4, 5, 8, 9]
    assert batch.input_ids[0, batch.rows].tolist() == [1, 3, 4, 7, 8], (
        "each target is predicted from the token before it"
    )


def test_targets_are_told_apart_by_document_packed_or_not() -> None:
    """A document that goes on in the next sequence counts as another one there."""
    numbers = target_documents(PACKED, np.array([1, 0, 2]))
    targets = np.array([8, 9, 2, 4, 5, 11, 13, 14])
    grouped = [targets[numbers == one].tolist() for one in dict.fromkeys(numbers)]
    assert grouped == [[8, 9], [2], [4, 5], [11], [13, 14]]


def test_padding_is_cut_to_the_longest(device: torch.device) -> None:
    batch = padded(PACKED, np.array([1, 2]), device)
    assert batch.input_ids.tolist() == [[7, 8, 9, 0, 0], [10, 11, 12, 13, 14]]
    assert batch.targets.tolist() == [8, 9, 11, 13, 14]
    assert batch.input_ids.flatten()[batch.rows].tolist() == [7, 8, 10, 12, 13]


def _states(model, batch: Batch) -> torch.Tensor:
    found = hidden_states(model, batch.input_ids, batch.position_ids, batch.document_lengths)
    return found.flatten(0, 1)[batch.rows]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["all heads", "grouped queries"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_and_gradients_are_those_of_documents_alone(
    heads: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=heads[0], num_key_value_heads=heads[1], attn_implementation="sdpa",
    )  # fmt: skip
    plain = LlamaForCausalLM(shape).to(device, dtype).eval()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig.from_dict(shape.to_dict())).to(device, dtype).eval()
    model.load_state_dict(plain.state_dict())
    assert choose_layout(model, packed=True) == "by_document"
    batch = ragged(PACKED, np.array([2, 0, 1]), device)
    found = _states(model, batch)
    alone = []
    for sequence in (2, 0, 1):
        for document in dict.fromkeys(PACKED.document[sequence]):
            ids = PACKED.input_ids[sequence][PACKED.document[sequence] == document]
            if document >= 0 and len(ids) > 1:
                one = torch.from_numpy(ids)[None].long().to(device)
                alone.append(hidden_states(plain, one)[0, :-1])
    expected = torch.cat(alone)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert (found - expected).float().norm() < tolerance * expected.float().norm()
    found.square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip(model.model.parameters(), plain.model.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (
            mine.grad - theirs.grad
        ).float().norm() <= 10 * tolerance * theirs.grad.float().norm()


def test_attention_that_needs_a_mask_keeps_it() -> None:
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    sliding = MistralForCausalLM(
        MistralConfig(**shape, **heads, sliding_window=4, attn_implementation="sdpa")
    )
    eager = LlamaForCausalLM(LlamaConfig(**shape, **heads, attn_implementation="eager"))
    for model, kernel in ((sliding, "sdpa"), (eager, "eager")):
        assert choose_layout(model, packed=True) == "stored"
        assert model.config._attn_implementation == kernel


@pytest.mark.parametrize("layout", ["pad", "pack"])
@pytest.mark.parametrize(
    "method", ["gradient_ascent", "random_labels", "ascent_kl_in_distribution"]
)
def test_the_trajectory_is_that_of_padded_batches(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch, method: str, layout: str
) -> None:
    spec = tiny_study.model_copy(
        update={"data": tiny_study.data.model_copy(update={"layout": layout})}
    )
    found = fresh(spec)
    assert found.policy.model.config._attn_implementation == ATTENTION
    monkeypatch.setattr(workspace_module, "choose_layout", lambda model, packed: "stored")
    plain = fresh(spec)
    assert plain.policy.model.config._attn_implementation == "sdpa"
    mine, _ = run(found, config(method))
    theirs, _ = run(plain, config(method))
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)
    start = torch.cat([p.detach().flatten() for p in fresh(spec).parameters])
    ends = [torch.cat([p.detach().flatten() for p in weights(w)]) for w in (found, plain)]
    assert (ends[0] - ends[1]).norm() < 5e-3 * (ends[1] - start).norm()
