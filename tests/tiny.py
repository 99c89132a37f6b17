"""The tiny study that most tests run: see the fixtures in conftest.py."""

from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent
SIZES = {
    "forget": 24,
    "approximate": 24,
    "retain": 24,
    "retain_heldout": 16,
    "general_retain": 16,
    "general_evaluation": 16,
}


def study_file(folder: Path, text_files: Path, model: Path, /, **changes: object) -> Path:
    """A study file over the tiny model; keyword arguments replace top-level keys."""
    content: dict[str, object] = {
        "name": "tiny",
        "model": {"source": str(model)},
        "data": {
            "domain": "Python standard library",
            "sequence_length": 48,
            "max_sequences_per_document": 2,
            "splits": {
                name: {"path": str(text_files / f"{name}.jsonl"), "id": "id"} for name in SIZES
            },
        },
        "methods": ["gradient_ascent", "ascent_kl_in_distribution"],
        "spaces": str(REPOSITORY / "search_spaces"),
        "space_overrides": {
            "learning_rate": {
                "type": "float",
                "low": 1e-4,
                "high": 1e-2,
                "scale": "log",
                "grid": [1e-4, 1e-3],
            },
            "steps": {"type": "int", "low": 1, "high": 4, "free": True},
            "batch_size": 4,
        },
        "search": {"sampler": "random", "trials_per_method": 2, "quasi_random_share": 0.5},
        "evaluation": {"at": [1, 2, 4], "batch_size": 8},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path
