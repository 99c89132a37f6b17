"""A user's names beside ours. If these fail, one column of a table hides another."""

import pytest
from tiny import REPOSITORY

from ray_unlearn.spec import method_registry
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import Hyperparameter
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_registry import METHODS, own_hyperparameters, register
from ray_unlearn.spec.method_terms import TermSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.store.study_columns import is_column
from ray_unlearn.store.table import TABLE_COLUMNS, check_column_names


@pytest.fixture
def naming(monkeypatch: pytest.MonkeyPatch):
    """A function that makes a study of a method with a hyperparameter of that name."""
    registered = dict(METHODS)
    monkeypatch.setattr(method_registry, "_registered", registered)
    monkeypatch.setattr(method_registry, "METHODS", registered)

    def study(name: str) -> StudySpec:
        own = (Hyperparameter(name, 1.0, above=0),)
        register(Method("mine", "l", (TermSpec("forget", "forget", "ascent"),), own=own))
        return load_study(REPOSITORY / "studies" / "demo.yaml").model_copy(
            update={"methods": ("mine",)}
        )

    return study


@pytest.mark.parametrize(
    "name",
    ["flops", "status", "score", "forget_gap_reporting", "feasible", "group", "hard_nll",
     "sharp_loss", "retain_documents_selection"],
)  # fmt: skip
def test_a_hyperparameter_that_is_called_like_a_column_is_refused(naming, name: str) -> None:
    """`flops` gave a table in which the trial's setting stood for what its updates took."""
    with pytest.raises(UserError, match=rf"mine: its hyperparameter '{name}' is named like"):
        check_column_names(naming(name))


def test_no_hyperparameter_of_ours_is_called_like_a_column() -> None:
    for name in own_hyperparameters(METHODS):
        assert name not in TABLE_COLUMNS
        assert not is_column(name)


def test_terms_have_columns_that_nothing_else_has() -> None:
    """Names end in `_loss`, and those of all studies are the forget and the retain term's."""
    assert {name for name in COLUMNS if name.endswith("_loss")} == {"forget_loss", "retain_loss"}
