"""Frozen digests of ledgers that were begun before data digests covered white space.

Such a study can be resumed, confirmed and exported: its header is compared with these digests. They
leave out white space, all of a slow tokenizer but its vocabulary, and, for a model in several
files, the index that says which file a tensor is read from. New studies never use them.
"""

import hashlib
from pathlib import Path
from typing import Any

from ray_unlearn.spec.data_spec import DataSpec
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.spec.strict import digest
from ray_unlearn.unlearn.document_hash import text_hash

LAYOUT_VERSION = 1


def former_data_digest(spec: DataSpec, documents: dict[str, list[Document]], tokenizer: Any) -> str:
    """Digest of folded texts, layout and tokenizer; 32 hex digits."""
    layout = spec.model_dump(include={"sequence_length", "layout", "max_sequences_per_document"})
    content = {name: [text_hash(d.text) for d in split] for name, split in documents.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    if backend is not None:
        described = backend.to_str()
    return digest([LAYOUT_VERSION, layout, content, digest(described)], length=32)


def former_folder_digest(folder: Path, spec: ModelSpec) -> str:
    """Digest of config and weights of a model folder, or of its GGUF file; 12 hex digits."""
    names = ["config.json", *(path.name for path in folder.glob("*.safetensors"))]
    total = hashlib.sha256()
    for name in sorted([spec.gguf_file] if spec.gguf_file else names):
        with open(folder / name, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]
