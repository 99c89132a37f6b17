"""Baselines: what every trial is judged against, measured before the first one."""

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.evaluate import evaluate, evaluate_vanilla
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model
from ray_unlearn.unlearn.workspace import Workspace


def measure_baselines(workspace: Workspace, model: ModelSpec) -> dict[str, Row]:
    """`vanilla` (P_0 on every set; on A it is approximate retraining) and, where there are any,
    `exact_retrain`, `exact_retrain_2` ... (other seeds).

    Deals the halves of a study that begins, for the target rests on them. Leaves the workspace with
    vanilla weights. A collective of all ranks.

    Raises:
        UserError: the exactly retrained model cannot be loaded or has another shape.
    """
    workspace.reset()
    found: dict[str, Row] = {"vanilla": evaluate_vanilla(workspace) | {"update": 0}}
    for name, source in exact_retrain_sources(model).items():
        retrained = load_model(model, source)
        if [p.shape for p in retrained.parameters()] != workspace.vanilla_shapes:
            field = "exact_retrain" if name == "exact_retrain" else "exact_retrain_seeds"
            raise UserError(
                f"model.{field}: {source} has other weight shapes than {model.source}; use the "
                "same config"
            )
        found[name] = evaluate(workspace, workspace.scored(retrained)) | {"update": 0}
    return found
