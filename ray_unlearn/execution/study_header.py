"""What a study's ledger begins with: everything that decides its results, and who runs it."""

import hashlib
import importlib.metadata
import platform
from pathlib import Path

from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.row_tasks import task_digests
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.user_methods import source_digests
from ray_unlearn.store.event import Header
from ray_unlearn.store.schema import Dealing
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.memory import active_parameter_count
from ray_unlearn.unlearn.model import config_of, model_digest
from ray_unlearn.unlearn.workspace import context_digest, retraining_flops

LIBRARIES = ("ray", "torch", "transformers", "optuna", "numpy", "tokenizers")
HARNESS = "lm_eval"


def study_header(spec: StudySpec, data: StudyData, dealing: Dealing = "balanced") -> Header:
    """The first event of a new study's ledger."""
    return Header(
        spec=spec.model_dump(mode="json"),
        domain=data.domain,
        data_digest=data.digest,
        split_digests=data.split_digests,
        model_digest=model_digest(spec.model),
        context=context_digest(spec, data),
        retraining_flops=_retraining_flops(spec.model),
        dealing=dealing,
        code_version=code_version(),
        libraries=libraries(spec),
        methods=source_digests(spec.methods),
        tasks=task_digests(spec.evaluation.tasks),
    )


def libraries(spec: StudySpec) -> dict[str, str]:
    """Versions of what decides a study's numbers, by name."""
    used = (*LIBRARIES, HARNESS) if spec.evaluation.tasks else LIBRARIES
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in used
    }


def _retraining_flops(model: ModelSpec) -> float:
    """`workspace.retraining_flops` with parameters counted on the meta device, without loading."""
    if model.source.startswith("demo:") or not model.pretraining_tokens:
        return retraining_flops(model, 0)
    return retraining_flops(model, active_parameter_count(config_of(model)))


def code_version() -> str:
    """The installed version and a digest of the sources, which tells two checkouts apart."""
    try:
        version = importlib.metadata.version("ray-unlearn")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    root = Path(__file__).parent.parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{version} ({total.hexdigest()[:12]})"
