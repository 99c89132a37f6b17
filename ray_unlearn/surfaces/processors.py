"""How the statistics use the processors of a machine."""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

MANY = 500
"""Trials from which methods have processes of their own, which take some two seconds to start."""


def one_blas_thread(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """The function with its linear algebra in one thread: the matrices here are small.

    OpenBLAS divides even a matrix of ten rows among all cores and waits for each. On a machine
    whose cores are busy a report of 588 trials took seventeen times as long.
    """

    @wraps(function)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


def each(
    function: Callable[..., Returned], arguments: Sequence[tuple[Any, ...]], trials: int
) -> list[Returned]:
    """The function of each tuple of arguments, in processes where there are many trials.

    Threads gain nothing: most steps are too short to let others run.
    """
    processes = min(len(arguments), os.cpu_count() or 1) if trials >= MANY else 1
    return list(Parallel(n_jobs=processes)(delayed(function)(*some) for some in arguments))
