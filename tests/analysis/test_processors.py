"""Processes change how long statistics take, and nothing else."""

import os

import numpy as np
from threadpoolctl import threadpool_info

from ray_unlearn.surfaces.processors import MANY, each, one_blas_thread


def _where(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def test_many_trials_have_processes_and_few_have_none() -> None:
    few = each(_where, [(3,), (4,)], MANY - 1)
    many = each(_where, [(3,), (4,)], MANY)
    assert [square for square, _ in few] == [square for square, _ in many] == [9, 16]
    assert {pid for _, pid in few} == {os.getpid()}
    if (os.cpu_count() or 1) > 1:
        assert os.getpid() not in {pid for _, pid in many}


def test_linear_algebra_has_one_thread_inside_and_as_many_as_before_outside() -> None:
    def threads() -> set[int]:
        np.linalg.inv(np.eye(3))
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    before = threads()
    assert one_blas_thread(threads)() == {1}
    assert threads() == before
