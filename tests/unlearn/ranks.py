"""Processes of these tests are forked from a server that has imported torch and transformers once.

A fresh process would import them for 9 s. The server itself never runs a backward pass, so its
children may.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as torch_processes

multiprocessing.set_forkserver_preload(
    [
        "ray_unlearn.unlearn.baselines",
        "ray_unlearn.unlearn.single_trial",
        "transformers.models.llama.modeling_llama",
        "peft",
    ]
)


def run_ranks(function: Callable[..., None], arguments: tuple[Any, ...], ranks: int = 1) -> None:
    """`function(rank, *arguments)` in so many processes; their errors are raised here."""
    torch_processes.start_processes(
        function, args=arguments, nprocs=ranks, start_method="forkserver"
    )
