"""Which trials are of one configuration: they are no independent draws of the search space."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ray_unlearn.surfaces.axes import Axis


def configuration_labels(trials: pd.DataFrame, hyperparameters: Sequence[str]) -> pd.Series:
    """A name for the configuration of each trial: equal to twelve digits is equal."""
    label = pd.Series("", index=trials.index)
    for name in hyperparameters:
        values = trials[name]
        texts = (
            values.map("{:.12g}".format).astype(str)  # of no value the type would be a number's
            if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
            else values.astype(str)
        )
        label = label + "\0" + texts
    return label


def with_configurations(trials: pd.DataFrame, axes: Mapping[str, Sequence[Axis]]) -> pd.DataFrame:
    """`TrialTable.trials` and a column `configuration`: method, group and searched values.

    Trials of a method without searched hyperparameters repeat nothing that was drawn: each is one.
    """
    parts = []
    for method, own in trials.groupby("method", sort=False):
        names = [axis.name for axis in axes.get(str(method), ()) if axis.name in own]
        label = configuration_labels(own, names) if names else own["trial"].astype(str)
        parts.append(own["method"] + "\0" + own["group"] + "\0" + label)
    return trials.assign(configuration=pd.concat(parts) if parts else "")
