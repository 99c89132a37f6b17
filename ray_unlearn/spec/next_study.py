"""A study that runs given configurations on the model and data of another one."""

from collections.abc import Mapping, Sequence

from ray_unlearn.spec.guideline_file import Value
from ray_unlearn.spec.listed_points import middle_of, sampled_parameters
from ray_unlearn.spec.search_space import Choice, IntRange, Scalar, SearchSpace
from ray_unlearn.spec.strict import validated
from ray_unlearn.spec.study_spec import StudySpec

LONGEST_NAME = 55


def study_of_configurations(
    spec: StudySpec,
    configurations: Mapping[str, Sequence[Mapping[str, Value]]],
    name: str = "next",
) -> StudySpec:
    """The study that runs these configurations, once each, in their order.

    It has the model, data, spaces, evaluation and objective of `spec`, and its first seed. Values
    are moved to the nearest ones that the space has.

    Args:
        spec: of the study that they continue.
        configurations: by method, values of what was searched; what a configuration leaves out is
            in the middle of its range.
        name: what is appended to the study's name.
    """
    points = {
        method: [_point(spec.spaces[method], values) for values in found]
        for method, found in configurations.items()
        if found
    }
    once = {
        method: [one for i, one in enumerate(p) if one not in p[:i]] for method, p in points.items()
    }
    content = spec.model_dump(mode="json") | {
        "name": f"{spec.name[:LONGEST_NAME]}-{name}",
        "description": f"configurations that would settle most of what {spec.name} left open",
        "methods": [method for method in spec.methods if method in once],
        "spaces": {method: spec.spaces[method].model_dump(mode="json") for method in once},
        "full_spaces": None,
        "search": {
            "sampler": "listed",
            "points": once,
            "trial_seeds": spec.search.trial_seeds[:1],
            "seed": spec.search.seed,
            "scheduler": spec.search.scheduler.model_dump(mode="json"),
        },
    }
    return validated(StudySpec, content, f"next study of {spec.name}")


def _point(space: SearchSpace, values: Mapping[str, Value]) -> dict[str, Scalar]:
    point: dict[str, Scalar] = {}
    for name, parameter in sampled_parameters(space).items():
        if any(point.get(other) != value for other, value in parameter.when.items()):
            continue
        if name not in values:
            point[name] = middle_of(parameter)
        elif isinstance(parameter, Choice):
            named = {_name_of(choice): choice for choice in parameter.choices}
            point[name] = named[_name_of(values[name])]
        else:
            value = min(max(float(values[name] or 0), parameter.low), parameter.high)
            point[name] = round(value) if isinstance(parameter, IntRange) else value
    return point


def _name_of(choice: Value) -> str:
    """A choice as tables name it: 4 and 4.0 are `4`."""
    return str(int(choice)) if isinstance(choice, float) and choice.is_integer() else str(choice)
