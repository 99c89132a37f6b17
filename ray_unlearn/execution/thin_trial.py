"""The Tune side of a trial: hand the trial to the hub, pass on what comes back. It computes
nothing.

Failures arrive as data: a trainable that raised would cost Tune its actor, and the trial its rows.
"""

from typing import Any

from ray import tune

from ray_unlearn.execution.hub import Hub
from ray_unlearn.execution.messages import RowReported, RunTrial
from ray_unlearn.execution.ray_hub import RayHub

DELIVERY = "delivery"

# Not a CPU: on a cluster whose CPUs are all taken by lanes the trials would wait for ever. Tune
# wants some resource, every cluster's head node has this one, and a thin trial needs next to
# nothing of it.
_RESOURCES = {"CPU": 0, "node:__internal_head__": 0.001}


class ThinTrial(tune.Trainable):  # type: ignore[misc]
    """One actor per lane, reused for all trials."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Next to nothing."""
        return tune.PlacementGroupFactory([_RESOURCES])

    def setup(self, config: dict[str, Any]) -> None:
        """Called for the first trial of an actor."""
        self._hub = RayHub.named(config["hub"])
        self._number: int = config["number"]
        self._order: RunTrial = config["order"][0]
        self._handled = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every later trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next item. Asking for it says that the one before has been dealt with: see `hub`."""
        delivery = self._hub.ask(Hub.pull, self._number, self._handled, self._order)
        self._handled = delivery.sequence
        done = not isinstance(delivery.item, RowReported)
        return {DELIVERY: [delivery], "done": done}  # in a list, so that Tune does not flatten it
