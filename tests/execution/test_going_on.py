"""What `resume` looks at before it reads data and starts lanes. Nothing is run: each is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ray_unlearn.execution import study as study_module
from ray_unlearn.execution.resume import write_spec
from ray_unlearn.execution.study import resume_study
from ray_unlearn.execution.study_header import study_header
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.ledger import Ledger
from ray_unlearn.unlearn.data import prepare

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 17\n"


@pytest.fixture
def begun(tiny_study: StudySpec, tmp_path: Path) -> Callable[..., Path]:
    """A study that has all its trials before it; its model is a copy, its operations are given."""
    model = tmp_path / "model"
    shutil.copytree(tiny_study.model.source, model)

    def begin(**operations: object) -> Path:
        spec = tiny_study.model_copy(
            update={
                "model": tiny_study.model.model_copy(update={"source": str(model)}),
                "operations": tiny_study.operations.model_copy(update=operations),
            }
        )
        folder = tmp_path / "study"
        Ledger.create(folder / "ledger", study_header(spec, prepare(spec.data, spec.model))).close()
        write_spec(folder / "study.yaml", spec)
        return folder

    return begin


def test_a_pointer_in_the_place_of_weights_is_said_before_data_are_read(
    begun: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied study folder with a fresh clone of its model: it was called another model."""
    folder = begun()
    monkeypatch.setattr(study_module, "prepared_study", lambda *given: pytest.fail("read"))
    (tmp_path / "model" / "model.safetensors").write_text(POINTER)
    with pytest.raises(UserError, match="git-lfs pointer, not the weights: run `git lfs pull`"):
        resume_study(folder, quiet=True, say=lambda text: None)


def test_a_refused_resume_adds_no_trials(begun: Callable[..., Path], tmp_path: Path) -> None:
    """Each attempt did, until the study had as many more as there were attempts."""
    folder = begun()
    (tmp_path / "model" / "model.safetensors").write_text(POINTER)
    files = [folder / "study.yaml", folder / "ledger" / "events.jsonl"]
    before = [path.read_bytes() for path in files]
    with pytest.raises(UserError, match="git-lfs pointer"):
        resume_study(folder, add_trials=3, quiet=True, say=lambda text: None)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_on_this_machine_are_said_and_no_lane_waits_for_them(
    begun: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = begun(gpus_per_worker=1.0)
    with pytest.raises(UserError, match=r"a lane wants 1 GPU\(s\), 0 are there; set"):
        resume_study(folder, quiet=True, say=lambda text: None)
