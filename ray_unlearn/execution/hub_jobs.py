"""A job between Tune and a lane, as the hub holds it, and what a fault does to it."""

from dataclasses import dataclass, field, replace

from ray_unlearn.execution.messages import (
    BestWeights,
    Delivery,
    Fault,
    JobEnded,
    KnownRow,
    Order,
    Prepare,
    Reported,
    RowReported,
    RunTrial,
)
from ray_unlearn.store.schema import Outcome, RowKey

NODE_DEATHS = 5
"""Nodes that may die under one trial without warning."""


@dataclass
class HubJob:
    """A job with its attempts, its faults and its last item."""

    number: int
    order: Order
    attempt: int = 0
    faults: int = 0
    """Deaths of its worker that it may have caused."""
    node_deaths: int = 0
    lane: int | None = None
    item: Reported | None = None
    """The item that waits to be pulled or dealt with."""
    sequence: int = 0
    """Number of `item`, 1 for the job's first."""
    handled: int = 0
    """The last sequence number that Tune's side has dealt with."""
    save_at: int = 0
    """Sequence number of a row whose weights are wanted."""
    weights: BestWeights | None = None
    """The file saved last, until Tune's side has dealt with a delivery that names it."""
    known: list[KnownRow] = field(default_factory=list)
    """Rows that were dealt with: the next attempt need not evaluate them again."""
    delivery: Delivery | None = None
    """The last delivery; asking again returns the same."""

    @property
    def ended(self) -> bool:
        """Whether its last item has arrived."""
        return isinstance(self.item, JobEnded)

    @property
    def current_order(self) -> Order:
        """The order for the next attempt."""
        match self.order:
            case RunTrial():
                return replace(self.order, known=(*self.order.known, *self.known))
            case Prepare():
                return self.order

    def arrived(self, handled: int) -> bool:
        """Whether there is an item beyond that one."""
        return self.item is not None and self.sequence > handled

    def put(self, item: Reported) -> None:
        """Store the next item."""
        self.item, self.sequence = item, self.sequence + 1

    def deal_with(self, handled: int) -> None:
        """Note that Tune's side has dealt with all items up to this one, and with their weights."""
        if handled <= self.handled:
            return
        self.handled = handled
        if isinstance(self.item, RowReported) and self.sequence == handled:
            self.known.append(KnownRow.of(self.item.metrics))
        if self.delivery is not None and self.delivery.sequence <= handled:
            if self.delivery.weights == self.weights:
                self.weights = None
            self.delivery = None

    def deliver(self, notes: list[str]) -> Delivery:
        """The waiting item; asking again returns the same delivery."""
        assert self.item is not None
        if self.delivery is None or self.delivery.sequence != self.sequence:
            self.delivery = Delivery(
                self.item, self.sequence, self.attempt, self.lane, tuple(notes), self.weights
            )
            notes.clear()
        return self.delivery

    def is_at(self, key: RowKey) -> bool:
        """Whether its lane's last report is this row."""
        return isinstance(self.item, RowReported) and self.item.key == key

    def interrupt(self, fault: Fault, max_retries: int) -> bool:
        """Count the loss of its worker, and return whether it may run again; if not, it has ended.

        A row that was not pulled yet is dropped: the next attempt computes it again.
        """
        self.lane = None
        self.attempt += 1
        self.faults += not fault.node
        self.node_deaths += fault.node == "node"
        why = ""
        if self.faults > max_retries:
            why = f"its worker died or hung {self.faults} times"
        elif self.node_deaths > NODE_DEATHS:
            why = f"its node died {self.node_deaths} times"
        if why:
            status: Outcome = "out_of_memory" if fault.no_memory else "failed"
            self.put(JobEnded(status, f"{why}; the last time: {fault.reason}"))
            return False
        self.item, self.handled = None, self.sequence
        return True
