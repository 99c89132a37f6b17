"""What a study's file names, looked at before torch is imported: a mistake is told in a second."""

from pathlib import Path

from ray_unlearn.spec.data_spec import SplitSource, place_of
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.model_files import check_source, check_tokenizer_files
from ray_unlearn.unlearn.sources import check_path, read_source, refuse_overlap

LARGEST_READ = 32 * 2**20
"""Bytes of documents that are read here, and once more when they are tokenised."""


def check_named_files(spec: StudySpec) -> None:
    """Refuse model files and documents that cannot be used; the hub is not asked.

    Raises:
        UserError: the first one that is wrong.
    """
    check_source(spec.model)
    if not spec.model.gguf_file:
        check_tokenizer_files(spec.model.source)
    places = {place_of(name): source for name, source in spec.data.splits.items()}
    local = {
        place: source
        for place, source in (places | spec.evaluation.sources).items()
        if source.hub is None
    }
    for place, source in local.items():
        check_path(source, place)
    if sum(map(_bytes, local.values())) > LARGEST_READ:
        return
    found: dict[str, list[Document]] = {}
    for place, source in local.items():
        skipped: list[str] | None = [] if spec.data.blank_rows == "skip" else None
        found[place] = list(read_source(source, place, skipped))
    refuse_overlap(
        {name: found.get(place_of(name), []) for name in spec.data.splits},
    )


def _bytes(source: SplitSource) -> int:
    path = Path(source.path or ".")
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
