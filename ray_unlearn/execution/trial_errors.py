"""The meaning of exceptions inside a trial."""

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
    """Whether a worker failed because its collective broke with another one of its group.

    Such a worker is usually the first to report: the connection breaks at once, while Ray needs a
    second to notice a lost process and 15 to notice a lost node.
    """
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in _PEER_SIGNS)


def free_memory() -> None:
    """Free the memory that a failed step has left in use."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
