"""One thread for linear algebra: the matrices here are small."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def one_blas_thread(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """The function with its linear algebra in one thread.

    OpenBLAS divides even a matrix of ten rows among all cores and waits for each. On a machine
    whose cores are busy a report of 588 trials took seventeen times as long.
    """

    @wraps(function)
    def limited(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
