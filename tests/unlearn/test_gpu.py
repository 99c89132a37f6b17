"""What a worker sets for its GPU, and what its share of one means."""

import pytest
import torch

from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.gpu import memory_fraction, ready_gpu
from ray_unlearn.unlearn.plan import host_gib, plan
from ray_unlearn.unlearn.workspace import Workspace


def test_cudnn_builds_no_graph_for_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without an index, which `torch.cuda.set_device` refuses."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        ready_gpu(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled(), "a CPU's settings are its own"
        ready_gpu(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_lanes_on_one_gpu_cannot_take_each_others_memory() -> None:
    """Four quarters of a GPU and what CUDA holds of each process fit into it."""
    assert memory_fraction(0.25, 80.0) == pytest.approx(0.2425)
    assert 4 * (memory_fraction(0.25, 80.0) * 80.0 + 0.6) == pytest.approx(80.0)
    assert memory_fraction(0.01, 24.0) == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_lane_with_a_share_runs_out_at_its_share() -> None:
    ready_gpu(torch.device("cuda", 0), 0.05)
    size = torch.cuda.get_device_properties(0).total_memory // 10
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(size, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_a_share_of_a_gpu_counts_as_that_share(tiny_study: StudySpec) -> None:
    """Four lanes on one GPU were charged four of them."""
    data = prepare(tiny_study.data, tiny_study.model)
    operations = tiny_study.operations.model_copy(update={"gpus_per_worker": 0.25})
    workspace = Workspace.open(
        tiny_study.model, data, tiny_study.evaluation, operations, Comm.single()
    )
    assert workspace.accelerators == 0
    workspace.device = torch.device("cuda")
    assert workspace.accelerators == 0.25


def test_gpus_that_nobody_can_give_are_refused() -> None:
    """NCCL ends with an error of its own once the models are loaded."""
    with pytest.raises(ValueError, match=r"refuses two of a group on one.*`gpus_per_worker: 1`"):
        Operations(workers_per_lane=2, gpus_per_worker=0.5)
    with pytest.raises(ValueError, match=r"above 1 Ray gives whole GPUs, got 1\.5; use 1"):
        Operations(gpus_per_worker=1.5)
    assert Operations(workers_per_lane=2, gpus_per_worker=1).gpus_per_worker == 1
    assert Operations(gpus_per_worker=0.25).gpus_per_worker == 0.25


def test_a_gpu_lane_loads_its_model_on_the_host_first(tiny_study: StudySpec) -> None:
    """Counted as nothing, `lanes: auto` put more lanes on a node than can start there."""
    operations = tiny_study.operations.model_copy(update={"gpus_per_worker": 1})
    spec = tiny_study.model_copy(update={"operations": operations})
    weights = 4 * plan(spec).parameters / 2**30
    assert host_gib(spec) == pytest.approx(weights + 0.9)
