"""The bundled text.

scripts/build_demo_text.py makes the files; data/NOTICE.md names the authors.
"""

import gzip
import json
from functools import cache
from pathlib import Path

from ray_unlearn.spec.data_spec import SPLITS
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError, nearest

DOMAINS = {
    "shakespeare": "Shakespeare scenes",
    "stdlib": "Python standard library",
    "latex": "LaTeX papers",
}


def text_file(domain: str) -> Path:
    """The file of a domain.

    Raises:
        UserError: unknown domain.
    """
    if domain not in DOMAINS:
        raise UserError(
            f"unknown demo domain {domain!r}: choose {', '.join(DOMAINS)}{nearest(domain, DOMAINS)}"
        )
    return Path(__file__).parent / "data" / f"{domain}.jsonl.gz"


@cache
def _lines(domain: str) -> tuple[tuple[str, Document], ...]:
    with gzip.open(text_file(domain), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return tuple((row["split"], Document(row["id"], row["text"])) for row in rows)


def documents(domain: str) -> dict[str, list[Document]]:
    """Documents of a domain by split, in the order of SPLITS.

    A document has 170 to 310 characters, which are one or two chunks of 128 tokens. The vanilla
    model is trained on all splits but `approximate`; the retrained one on all but `forget` and
    `approximate`.

    Raises:
        UserError: unknown domain.
    """
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for split, document in _lines(domain):
        splits[split].append(document)
    return splits
