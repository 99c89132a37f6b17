"""Baselines, which every trial is compared with, measured before the first one."""

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.evaluate import evaluate, evaluate_vanilla
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model
from ray_unlearn.unlearn.workspace import Workspace


def measure_baselines(workspace: Workspace, model: ModelSpec) -> dict[str, Row]:
    """Rows of the models that no trial changed, by name.

    `vanilla` is P_0 on every set; on A it is approximate retraining. Where the study has exactly
    retrained models, `exact_retrain` and, for other seeds, `exact_retrain_2` ... follow. A study
    that begins has its halves dealt here, because the target rests on them. The workspace has
    vanilla weights afterwards. A collective of all ranks.

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
