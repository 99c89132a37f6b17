"""Whether a model is the one that a row of the ledger was measured on."""

from ray_unlearn.spec.errors import UserError
from ray_unlearn.store.feasibility import REPORTING
from ray_unlearn.store.schema import HALVED_SETS, Row
from ray_unlearn.unlearn.evaluate import forget_nll
from ray_unlearn.unlearn.trial_model import MadeModel
from ray_unlearn.unlearn.workspace import Workspace

SAME_NLL = {"float32": 1e-3, "bfloat16": 2e-2}
"""Nats per token by which a model that is made again may differ from its row, by weights' dtype."""
COMPARED_NLLS = ("forget_nll", *(f"{name}_nll_{REPORTING}" for name in HALVED_SETS))
"""Columns that a model's own measurement is compared with its row on."""


def check_same(workspace: Workspace, made: MadeModel, dtype: str) -> None:
    """Refuse a model whose forget NLL is not that of its row in the ledger.

    A trial that is run again on another machine, or on another number of workers, may go another
    way.

    Raises:
        UserError: it is not the same.
    """
    row: Row | None = made.row
    if row is None:
        return
    now = forget_nll(workspace)
    if not abs(now - row["forget_nll"]) <= SAME_NLL[dtype]:
        raise UserError(
            f"trial {made.trial.number}, update {made.at[0]}: made again ({made.how}), its forget "
            f"NLL is {now:.4f} and not {row['forget_nll']:.4f} as in the ledger, so it is another "
            "model; take the best trial, whose weights the study has kept, or run this where the "
            "study was run"
        )


def largest_difference(row: Row, measured: Row) -> tuple[str, float]:
    """The NLL in which two measurements of a model differ most, and by how much.

    Args:
        row: of the ledger.
        measured: of the model that was written.

    Returns:
        A column of `COMPARED_NLLS`, and nats per token; NaN where one of the two is not a number.
    """
    apart = {name: abs(measured[name] - row[name]) for name in COMPARED_NLLS}
    worst = max(apart, key=lambda name: (apart[name] != apart[name], apart[name]))
    return worst, float(apart[worst])
