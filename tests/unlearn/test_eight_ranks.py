"""A lane of eight workers, one of them real: shapes, memory and messages, without values.

The process group is torch's fake one, whose collectives move nothing.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.operations import Operations
from ray_unlearn.unlearn.batch import padded
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.loop import total_norm
from ray_unlearn.unlearn.memory import Memory, memory
from ray_unlearn.unlearn.optimizer import Rounded, local, state_of
from ray_unlearn.unlearn.sharded_model import ShardedModel
from ray_unlearn.unlearn.token_set import TokenSet

LAYERS, RANKS, LENGTH = 3, 8, 16
OF_LAYERS = LAYERS + 1
"""Groups of weights that are gathered together: each layer, and the rest."""


def planned(config: Any) -> Memory:
    spec: Any = SimpleNamespace(
        model=ModelSpec(source=".", dtype="bfloat16"),
        operations=Operations(workers_per_lane=RANKS, parallel="shard"),
        data=SimpleNamespace(sequence_length=LENGTH, sources={}),
        evaluation=SimpleNamespace(sets={}),
    )
    return memory(spec, config, 4)


def update(rank: int, folder: str) -> None:
    """Forward, backward, norm and step of one of eight ranks."""
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForCausalLM, LlamaConfig

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=RANKS)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    vanilla = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    numbers = sum(p.numel() for p in vanilla.parameters())
    policy = ShardedModel(vanilla, None, Comm(3, RANKS), torch.device("cpu"))
    tokens = TokenSet(
        np.ones((4, LENGTH), dtype=np.int32), np.zeros((4, LENGTH), dtype=np.int32),
        np.ones(1, dtype=np.int32), np.ones(1, dtype=bool),
    )  # fmt: skip
    batch = padded(tokens, np.arange(4), torch.device("cpu"))

    def passes() -> dict[str, int]:
        with CommDebugMode() as counted:
            policy.scored(batch, lambda h, head: logprob_sum(h, head, batch.targets)).backward()
        return {str(name).split(".")[-1]: n for name, n in counted.get_comm_counts().items() if n}

    found = passes()
    assert sum(n for name, n in found.items() if "reduce_scatter" in name) == OF_LAYERS, found
    assert sum(n for name, n in found.items() if "all_gather" in name) <= 2 * OF_LAYERS, found
    gradients = [p.grad for p in policy.parameters if p.grad is not None]
    assert len(gradients) == len(policy.parameters)
    with CommDebugMode() as counted:
        norm = total_norm(gradients)
    assert norm.shape == ()
    assert norm.dtype == torch.float32
    assert counted.get_total_counts() == 1, "one number per rank"
    optimizer = Rounded(policy.parameters, 1e-4, rounding="stochastic")
    with CommDebugMode() as counted:
        optimizer.step()
    assert counted.get_total_counts() == 0
    held(policy, optimizer, planned(config), numbers)
    assert passes() == found, "the next update sends as much"
    Path(folder, "done").touch()


def held(policy: ShardedModel, optimizer: Rounded, plan: Memory, numbers: int) -> None:
    """An eighth of everything, as planned."""

    def gib(tensors: Any) -> float:
        return sum(t.nbytes for t in tensors) / 2**30

    weights: list[nn.Parameter] = policy.parameters
    assert sum(local(p).numel() for p in weights) == numbers // RANKS
    states = [s for of in state_of(optimizer)["state"].values() for s in of.values()]
    with policy.reference() as vanilla:
        reference = gib(local(p) for p in vanilla.parameters())
    head = 512 * 64 * 2 / 2**30
    assert gib(map(local, weights)) == plan.weights
    assert gib(local(p.grad) for p in weights if p.grad is not None) == plan.gradients
    assert gib(s for s in states if isinstance(s, torch.Tensor)) == plan.optimizer
    assert reference + head == plan.reference


def test_one_of_eight_workers_holds_and_sends_what_is_planned(tmp_path: Path) -> None:
    run_ranks(update, (str(tmp_path),))
    assert (tmp_path / "done").exists()
