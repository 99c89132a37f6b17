"""Calls to the hub from outside its process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ray_unlearn.execution.hub import Hub

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

HubMethod = Callable[Concatenate[Hub, P], Coroutine[Any, Any, T]]


class HubDied(Exception):
    """The hub does not answer, so errors from now on are no fault of a trial."""


class Reply(ABC, Generic[T_co]):
    """The answer to a call that was not waited for."""

    @abstractmethod
    def done(self, timeout_s: float = 0.0) -> bool:
        """Whether the answer is there, after at most `timeout_s`."""

    @abstractmethod
    def result(self) -> T_co:
        """Wait for the answer.

        Raises:
            HubDied: there will be none.
        """


class HubLine(ABC):
    """A line to a hub: `line.ask(Hub.take, start, 10.0)` is checked like `hub.take(...)`.

    Ray carries the calls (`ray_hub`); tests of the core make them in one process.
    """

    @abstractmethod
    def ask(self, method: HubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, and wait for the answer.

        Raises:
            HubDied: there is none.
        """

    @abstractmethod
    def send(self, method: HubMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        """Call without waiting."""

    @abstractmethod
    def fetch(self, reference: Any) -> Any:
        """What the hub stores for all lanes; see `Hub.shared`."""

    def answers(self) -> bool:
        """Whether the hub is alive."""
        try:
            self.ask(Hub.ping)
        except HubDied:
            return False
        return True
