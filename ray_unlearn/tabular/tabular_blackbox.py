"""The table as a blackbox of Syne Tune (`syne_tune.blackbox_repository.blackbox.Blackbox`).

It has the members that `UserBlackboxBackend` uses, without being one of that class, so that Syne
Tune is needed for the configuration space alone.
"""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.tabular.method_table import ELAPSED, MethodTable
from ray_unlearn.tabular.tabular_files import PathLike

FIDELITY = "update"


class TabularBlackbox:
    """One method on one trained model as a multi-fidelity blackbox; the fidelity is the update.

    A point is answered by the nearest listed configuration (`MethodTable.nearest`).

    Attributes:
        objectives_names: all columns; `elapsed_s` is the `elapsed_time_attr` of backends.
        table: what is looked up.

    Args:
        path: the table's folder.
        domain: as in `MethodTable`, like `method`, `trained_model` and `seed`.
        method: the method.
        trained_model: number of the trained model.
        seed: of the trials.
    """

    elapsed_time_attr = ELAPSED

    def __init__(
        self, path: PathLike, domain: str, method: str, trained_model: int = 0, seed: int = 0
    ) -> None:
        self.table = MethodTable(path, domain, method, trained_model, seed)
        self.objectives_names = list(self.table.columns)

    @property
    def configuration_space(self) -> dict[str, Any]:
        """Syne Tune's domains of the hyperparameters that were searched."""
        return {name: _domain(parameter) for name, parameter in self.table.space.items()}

    @property
    def fidelity_space(self) -> dict[str, Any]:
        """The update, from the first evaluated one to the last."""
        from syne_tune.config_space import randint

        return {FIDELITY: randint(self.table.updates[0], self.table.updates[-1])}

    @property
    def fidelity_values(self) -> NDArray[np.int64]:
        """The evaluated updates, rising."""
        return np.array(self.table.updates)

    def fidelity_name(self) -> str:
        """The name of the fidelity."""
        return FIDELITY

    def objective_function(
        self,
        configuration: Mapping[str, Any],
        fidelity: Mapping[str, Any] | Number | None = None,
        seed: int | None = None,
    ) -> dict[str, float] | NDArray[np.float64]:
        """What was measured of a configuration.

        Args:
            configuration: a value for each hyperparameter.
            fidelity: an evaluated update, or `{"update": ...}`; None: all of them.
            seed: that of the blackbox, or None.

        Returns:
            By objective; without a fidelity an array [updates, objectives].

        Raises:
            UserError: a hyperparameter that was not searched or is missing, an update that was not
                evaluated, another seed.
        """
        for name in configuration:
            if name not in self.table.space:
                raise UserError(f"{name!r} was not searched{nearest(name, self.table.space)}")
        if seed not in (None, self.table.seed):
            raise UserError(f"seed {seed}: this blackbox has seed {self.table.seed}")
        curve = self.table.curve(self.table.nearest(configuration)).to_numpy()
        if fidelity is None:
            return curve
        update = fidelity[FIDELITY] if isinstance(fidelity, Mapping) else fidelity
        if update not in self.table.updates:
            raise UserError(f"update {update}: the table has {list(self.table.updates)}")
        values = curve[self.table.updates.index(update)].tolist()
        return dict(zip(self.objectives_names, values, strict=True))

    __call__ = objective_function

    def configuration_space_with_max_resource_attr(self, max_resource_attr: str) -> dict[str, Any]:
        """The configuration space with the last update as a constant of that name."""
        return self.configuration_space | {max_resource_attr: self.table.updates[-1]}


def _domain(parameter: Mapping[str, Any]) -> Any:
    from syne_tune import config_space as space

    if parameter["type"] == "choice":
        return space.choice(parameter["choices"])
    makers = {
        ("float", "log"): space.loguniform,
        ("float", "linear"): space.uniform,
        ("int", "log"): space.lograndint,
        ("int", "linear"): space.randint,
    }
    make = makers[parameter["type"], parameter["scale"]]
    return make(parameter["low"], parameter["high"])
