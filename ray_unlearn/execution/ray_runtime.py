"""Connection to Ray, without its log lines and with nothing left behind."""

import logging
import math
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ray_unlearn.execution.cluster import look
from ray_unlearn.execution.placement import Placed, placed, shape_of, why_never
from ray_unlearn.execution.ray_secret import private_folder, private_token
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_modules import ENVIRONMENT
from ray_unlearn.spec.operations import Operations
from ray_unlearn.spec.user_methods import modules_of, shipped_files

_log = logging.getLogger(__name__)
ANSWER_S = 10.0
"""Seconds within which a cluster's head accepts a connection."""

_LOUD = {
    "ray": logging.ERROR,
    "ray.tune": logging.ERROR,
    "ray.train": logging.ERROR,
    "ray.data": logging.ERROR,
    "ray.widgets.util": logging.ERROR,  # in a notebook: asks for ipywidgets three times
    "ray.tune.analysis.experiment_analysis": logging.CRITICAL,
}


@contextmanager
def connected(
    address: str | None, operations: Operations, methods: Collection[str] = ()
) -> Iterator[None]:
    """Ray for the duration of a study.

    A user's own modules among `methods` go to the nodes of a cluster with the study.

    Without an address a Ray is started on this machine and ended with the study; the one that Ray's
    current-cluster file names is never used, because it may be stale. If this process is connected
    already, that connection is used and left unchanged.

    Raises:
        UserError: no connection, or the cluster can never hold one lane.
    """
    _silence()
    if ray.is_initialized():
        _check_room(operations)
        yield
        return
    lanes = 1 if operations.lanes == "auto" else operations.lanes
    wanted = lanes * operations.workers_per_lane * operations.cpus_per_worker
    cpus = max(
        os.cpu_count() or 1, math.ceil(wanted)
    )  # logical CPUs: too many lanes are slow here, not impossible
    _init(address, cpus, methods)
    try:
        _silence()
        _check_room(operations, address)
        yield
    finally:
        ray.shutdown()


def placed_on(address: str, operations: Operations, trials: int, worker_gib: float) -> Placed:
    """The placement that a study would have on a cluster, without starting anything there.

    Raises:
        UserError: no connection.
    """
    _silence()
    _init(address, 0)
    try:
        return placed(
            look(operations.autoscaling), shape_of(operations, worker_gib), operations, trials
        )
    finally:
        ray.shutdown()


class RayNotStarted(UserError):
    """Ray's processes did not start in time; the next attempt may succeed."""


def _init(address: str | None, cpus: int, methods: Collection[str] = ()) -> None:
    where = f"here, with {cpus} CPUs" if address is None else f"at {address}"
    _log.info("connect to Ray %s", where)
    if address is not None:
        try:
            _knock(address)
            ray.init(
                address=address,
                runtime_env=_with_modules(methods),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(address, error) from None
        return
    private_token()
    folder = private_folder()
    try:
        ray.init(
            address="local",
            _temp_dir=folder,
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except OSError as error:
        raise UserError(
            f"Ray cannot start: {error}; set RAY_TMPDIR to a folder with a short path that only "
            "you can enter"
        ) from None
    except Exception as error:  # Ray raises bare ones if its processes do not start in time
        raise RayNotStarted(
            f"Ray cannot start on this machine: {error}; is it overloaded? try again"
        ) from None


def check_address(address: str | None) -> None:
    """Refuse the address of a cluster that does not answer, before anything is prepared for it.

    Raises:
        UserError: nobody answers there, or it is no address.
    """
    if address is not None and address != "auto":
        try:
            _knock(address)
        except (OSError, ValueError) as error:
            raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"--address: cannot connect to Ray at {address}: {error}; is it running (`ray status`), "
        "and if it uses tokens: is RAY_AUTH_MODE=token set here, and the token file the same?"
    )


def _with_modules(methods: Collection[str]) -> dict[str, Any] | None:
    """The runtime environment that ships a user's modules; None without any.

    Ray copies the files to each node and puts them on the path of each process; the hook tells the
    process to look there, as the environment does here.
    """
    named, files = modules_of(methods), shipped_files(methods)
    if not named:
        return None

    def look_there() -> None:
        os.environ[ENVIRONMENT] = named

    return {"py_modules": [str(path) for path in files], "worker_process_setup_hook": look_there}


def _knock(address: str) -> None:
    """Check that the address accepts connections; without an answer Ray would try for minutes.

    Raises:
        OSError: it does not.
        ValueError: not HOST:PORT.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


def _silence() -> None:
    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)


def _check_room(operations: Operations, address: str | None = None) -> None:
    """Refuse a lane that the cluster can never hold.

    Too few free resources only mean that lanes wait.
    """
    if (reason := why_never(look(operations.autoscaling), shape_of(operations))) is not None:
        raise UserError(
            reason
            + (
                "; if the cluster grows by itself, set operations.autoscaling: true"
                if address
                else ""
            )
        )
