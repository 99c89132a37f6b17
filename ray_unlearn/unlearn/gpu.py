"""Settings of a worker's process for its GPU, made before anything is placed there."""

import torch

CONTEXT_GIB = 0.6
"""GiB of a process on a GPU outside of torch's allocator: CUDA's context, kernels, workspaces.

An estimate: not yet measured.
"""


def ready_gpu(device: torch.device, share: float = 1.0) -> None:
    """Choose the device, its attention kernels, and how much of its memory this process may use.

    cuDNN's attention is left out: it builds a graph for every batch and length, and batches of
    documents have new ones in every update. Nothing is done for a CPU.

    Args:
        device: of this worker. Without an index it is the one that Ray has chosen already.
        share: of the GPU, `operations.gpus_per_worker`; below 1 its neighbours are other lanes,
            whose memory it must not take.
    """
    if device.type != "cuda":
        return
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cuda.enable_cudnn_sdp(False)
    if 0 < share < 1:
        index = torch.cuda.current_device()
        total_gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(memory_fraction(share, total_gib), index)


def memory_fraction(share: float, total_gib: float) -> float:
    """What torch's allocator may take of a GPU, for a process that has a share of it."""
    return max(0.0, share - CONTEXT_GIB / total_gib)
