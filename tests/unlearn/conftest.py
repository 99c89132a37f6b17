"""The tiny study with fewer documents: what these tests look at is updates, not evaluations."""

import pytest
import torch

from ray_unlearn.spec.study_spec import StudySpec

FEW = {"approximate": 6, "retain_heldout": 6, "general_evaluation": 6}
"""Documents of the splits that are only evaluated; both halves have some."""


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that a test is to be right on: `pytest -m gpu` runs the second one."""
    return torch.device(request.param)


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
