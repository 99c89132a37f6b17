"""The hub as a Ray actor."""

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.hub_line import HubDied, HubLine, HubMethod, P, Reply, T, T_co

PING_S = 30.0
"""Seconds without an answer after which a hub counts as dead."""


class RayReply(Reply[T_co]):
    """A reply that is a Ray object."""

    def __init__(self, reference: Any, timeout_s: float | None) -> None:
        self._reference = reference
        self._timeout_s = timeout_s

    def done(self, timeout_s: float = 0.0) -> bool:
        """See `Reply`."""
        return bool(ray.wait([self._reference], timeout=timeout_s)[0])

    def result(self) -> T_co:
        """See `Reply`."""
        return _unless_dead(lambda: ray.get(self._reference, timeout=self._timeout_s))


class RayHub(HubLine):
    """A line to the hub actor.

    Args:
        actor: the actor's handle.
        timeout_s: longest time to wait for an answer; None: as long as it takes.
    """

    def __init__(self, actor: Any, timeout_s: float | None = None) -> None:
        self.actor = actor
        self._timeout_s = timeout_s

    @classmethod
    def named(cls, name: str, timeout_s: float | None = None) -> "RayHub":
        """The hub of this name.

        Raises:
            HubDied: there is none.
        """
        try:
            return cls(ray.get_actor(name), timeout_s)
        except ValueError as error:
            raise HubDied(str(error)) from None

    @classmethod
    def start(cls, name: str, max_retries: int) -> "RayHub":
        """A new hub without lanes, on this node.

        Raises:
            HubDied: Ray's workers cannot start it.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Hub).options(
            name=name, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
        )
        line = cls(actor.remote(0, max_retries, ray.put))
        line.ask(Hub.ping)
        return line

    def ask(self, method: HubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `HubLine`."""
        return self.send(method, *args, **kwargs).result()

    def send(self, method: HubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        """See `HubLine`."""
        remote = getattr(self.actor, method.__name__).remote
        return RayReply(_unless_dead(lambda: remote(*args, **kwargs)), self._timeout_s)

    def fetch(self, reference: Any) -> Any:
        """See `HubLine`."""
        return _unless_dead(lambda: ray.get(reference))

    def answers(self) -> bool:
        """See `HubLine`."""
        try:
            RayHub(self.actor, PING_S).ask(Hub.ping)
        except HubDied:
            return False
        return True

    def kill(self) -> None:
        """End the actor."""
        ray.kill(self.actor)


def summary(error: BaseException) -> str:
    """Type and last line, which has the cause, of an exception from another process."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".strip(": ")[:300]


def _unless_dead(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ray.exceptions.RayError as error:
        raise HubDied(summary(error)) from None
