"""The tiny study with fewer documents: what these tests look at is updates, not evaluations."""

import pytest

from ray_unlearn.spec.study_spec import StudySpec

FEW = {"approximate": 6, "retain_heldout": 6, "general_evaluation": 6}
"""Documents of the splits that are only evaluated; both halves have some."""


@pytest.fixture
def tiny_study(tiny_study: StudySpec) -> StudySpec:
    """See tests/conftest.py."""
    splits = {
        name: source.model_copy(update={"limit": FEW.get(name, 16)})
        for name, source in tiny_study.data.splits.items()
    }
    return tiny_study.model_copy(
        update={"data": tiny_study.data.model_copy(update={"splits": splits})}
    )
