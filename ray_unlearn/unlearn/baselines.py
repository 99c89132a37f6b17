"""Baselines, which every trial is compared with, measured before the first one."""

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.compared_answers import split_of
from ray_unlearn.unlearn.evaluate import measured, measured_vanilla
from ray_unlearn.unlearn.model import exact_retrain_sources, load_model
from ray_unlearn.unlearn.retrained import MeasuredRow, Retrained, compared
from ray_unlearn.unlearn.workspace import Workspace

RETRAINED = "exact_retrain"
"""The exactly retrained model that others are compared with."""


def measure_baselines(workspace: Workspace, model: ModelSpec) -> dict[str, Row]:
    """Rows of the models that no trial changed, by name.

    `vanilla` is P_0 on every set; on A it is approximate retraining. Where the study has exactly
    retrained models, `exact_retrain` and, for other seeds, `exact_retrain_2` ... follow. A study
    that begins has its halves dealt here, because the target rests on them. The workspace has
    vanilla weights afterwards, and knows the exactly retrained model where rows are compared with
    it. A collective of all ranks.

    Raises:
        UserError: the exactly retrained model cannot be loaded or has another shape.
    """
    workspace.reset()
    found: dict[str, MeasuredRow] = {"vanilla": measured_vanilla(workspace)}
    for name, source in exact_retrain_sources(model).items():
        found[name] = _measured_retrained(workspace, model, name, source)
    if RETRAINED in found:
        _know(workspace, found[RETRAINED])
    return {name: compared(one, workspace.retrained) | {"update": 0} for name, one in found.items()}


def recall_retrained(workspace: Workspace, model: ModelSpec) -> None:
    """Measure the exactly retrained model again, for a study that goes on and compares with it.

    Its row is in the ledger, its documents one by one are not. A collective of all ranks.
    """
    source = exact_retrain_sources(model).get(RETRAINED)
    if _compares(workspace) and source is not None:
        _know(workspace, _measured_retrained(workspace, model, RETRAINED, source))


def _measured_retrained(
    workspace: Workspace, model: ModelSpec, name: str, source: str
) -> MeasuredRow:
    retrained = load_model(model, source)
    if [p.shape for p in retrained.parameters()] != workspace.vanilla_shapes:
        field = "exact_retrain" if name == RETRAINED else "exact_retrain_seeds"
        raise UserError(
            f"model.{field}: {source} has other weight shapes than {model.source}; use the "
            "same config"
        )
    return measured(workspace, workspace.scored(retrained))


def _compares(workspace: Workspace) -> bool:
    wrong = split_of("forget", "perturbed") in workspace.data.owners
    return workspace.evaluation.priv_leak or wrong


def _know(workspace: Workspace, retrained: MeasuredRow) -> None:
    if _compares(workspace):
        workspace.retrained = Retrained.of(retrained, workspace.evaluation.priv_leak)
