"""How the hub is called from outside its process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ray_unlearn.execution.hub import Hub

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

HubMethod = Callable[Concatenate[Hub, P], Coroutine[Any, Any, T]]


class HubDied(Exception):
    """The hub does not answer: nothing that goes wrong now says anything about a trial."""


class Reply(ABC, Generic[T_co]):
    """The answer to a call that was not waited for."""

    @abstractmethod
    def done(self, timeout_s: float = 0.0) -> bool:
        """Whether it is there, at the latest after `timeout_s`."""

    @abstractmethod
    def result(self) -> T_co:
        """Wait for it.

        Raises:
            HubDied: there will be none.
        """


class HubLine(ABC):
    """Calls the methods of a hub: `line.ask(Hub.take, start, 10.0)`, checked like `hub.take(...)`.

    Ray carries the calls (`ray_hub`). Tests of the core carry them inside one process.
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
        """What the hub was given to store for all lanes; see `Hub.shared`."""

    def answers(self) -> bool:
        """False when the hub is dead."""
        try:
            self.ask(Hub.ping)
        except HubDied:
            return False
        return True
