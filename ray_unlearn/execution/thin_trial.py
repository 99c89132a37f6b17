"""The Tune side of a trial, which hands the trial to the hub and passes on what comes back.

It computes nothing. Failures arrive as data: if a trainable raised, Tune would lose its actor, and
the trial its rows.
"""

from typing import Any

from ray import tune

from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.messages import RowReported, RunTrial
from ray_unlearn.execution.ray_hub import RayHub

DELIVERY = "delivery"

# Not a CPU: on a cluster with lanes on all its CPUs the trials would wait for ever. Tune requires
# some resource, every cluster's head node has this one, and a thin trial needs next to nothing of
# it.
_RESOURCES = {"CPU": 0, "node:__internal_head__": 0.001}


class ThinTrial(tune.Trainable):  # type: ignore[misc]
    """The actor of a trial, one per lane and reused for all its trials."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Resources of a trial, which are next to nothing."""
        return tune.PlacementGroupFactory([_RESOURCES])

    def setup(self, config: dict[str, Any]) -> None:
        """Set up an actor for its first trial."""
        self._hub = RayHub.named(config["hub"])
        self._number: int = config["number"]
        self._order: RunTrial = config["order"][0]
        self._handled = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Set up an actor for a later trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next item; asking for it means that the previous one was dealt with (see `hub`)."""
        delivery = self._hub.ask(Hub.pull, self._number, self._handled, self._order)
        self._handled = delivery.sequence
        done = not isinstance(delivery.item, RowReported)
        return {DELIVERY: [delivery], "done": done}  # in a list, so that Tune does not flatten it
