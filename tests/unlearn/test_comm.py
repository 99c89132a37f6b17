"""Gradients summed over a lane's workers."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import run_ranks

from ray_unlearn.unlearn import comm as module
from ray_unlearn.unlearn.comm import Comm


def _summed(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    each = 256.0 if rank == 0 else 1.0
    half = torch.full((10,), each, dtype=torch.bfloat16)
    full = [torch.full((7,), each), torch.tensor(each), torch.full((3, 5), each)]
    module.BUCKET_BYTES = 32
    Comm.distributed().all_reduce_sum([half, *full, half.clone()])
    assert half.tolist() == [258.0] * 10, "in bfloat16 256 + 1 is 256"
    assert all(bool((tensor == 258.0).all()) for tensor in full)
    dist.destroy_process_group()


def test_gradients_in_bfloat16_are_summed_as_exactly_as_those_of_shards(tmp_path: Path) -> None:
    run_ranks(_summed, (str(tmp_path),), 3)


def _messages(rank: int, folder: str) -> None:
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    module.BUCKET_BYTES = 4000
    gradients = [torch.ones(500, dtype=torch.bfloat16) for _ in range(5)]
    gradients.append(torch.ones(3000, dtype=torch.bfloat16))
    sizes = []
    reduce = dist.all_reduce
    dist.all_reduce = lambda tensor: (sizes.append((tensor.dtype, tensor.numel())), reduce(tensor))
    with CommDebugMode() as counted:
        Comm(0, 8).all_reduce_sum([*gradients, torch.ones(())])
    assert counted.get_total_counts() == len(sizes)
    assert [n for _, n in sizes] == [1000, 1000, 500, 3000, 1], "no copy of all gradients at once"
    assert {dtype for dtype, _ in sizes} == {torch.float32}
    Path(folder, "done").write_text(str(os.getpid()))


def test_no_message_is_a_second_copy_of_all_gradients(tmp_path: Path) -> None:
    run_ranks(_messages, (str(tmp_path),))
    assert (tmp_path / "done").exists()
