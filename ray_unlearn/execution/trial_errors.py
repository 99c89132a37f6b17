"""What an exception inside a trial means."""

import gc

from ray_unlearn.store.schema import Outcome

OUT_OF_MEMORY_HINT = (
    "lower operations.micro_batch_size or evaluation.batch_size, set "
    "operations.activation_checkpointing, use fewer lanes, several workers with "
    "operations.parallel: shard, or, with other results, model.dtype: bfloat16 or model.lora; "
    "`ray-unlearn plan` says what each would save"
)

_MEMORY_SIGNS = ("out of memory", "can't allocate memory")
_PEER_SIGNS = ("gloo/transport", "DistBackendError", "DistNetworkError", "ncclRemoteError")


def classify(error: BaseException) -> tuple[Outcome, str]:
    """Outcome and reason of an exception inside a trial."""
    import torch

    text = f"{type(error).__name__}: {error}".strip()
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(sign in str(error).lower() for sign in _MEMORY_SIGNS)
    )
    return ("out_of_memory", f"{text}; {OUT_OF_MEMORY_HINT}") if no_memory else ("failed", text)


def lost_peer(error: BaseException) -> bool:
    """Whether a worker failed because another one of its group is gone: its collective broke.

    It is usually the first to report, for the connection breaks at once, and Ray needs a second to
    miss a process and 15 to miss a node.
    """
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in _PEER_SIGNS)


def free_memory() -> None:
    """Give back what a failed step has left."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
