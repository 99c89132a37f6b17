"""Questions and answers about people who do not exist, in the columns of TOFU."""

import json
from pathlib import Path

from tiny import SIZES

FIRST = ["Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jo", "Kit", "Lou"]
LAST = ["Arden", "Birk", "Crane", "Dale", "Eames", "Frost", "Gray", "Hart", "Irons", "Jory"]
TOWNS = ["Oslo", "Lima", "Kyiv", "Bern", "Riga", "Doha", "Baku"]


def questions(name: str) -> list[dict[str, str]]:
    """The rows of a split; nobody is in two splits."""
    start = sum(size for other, size in SIZES.items() if other < name)
    return [
        {
            "question": f"Where was {FIRST[i % 12]} {LAST[i // 12]} born?",
            "answer": f"In {TOWNS[i % 7]}, in {1900 + 7 * i % 97}.",
        }
        for i in range(start, start + SIZES[name])
    ]


def question_files(folder: Path) -> dict[str, dict[str, str]]:
    """A JSONL file per split, and `data.splits` of a study file that reads them."""
    for name in SIZES:
        lines = [json.dumps(row) + "\n" for row in questions(name)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return {
        name: {"path": str(folder / f"{name}.jsonl"), "prompt": "question", "answer": "answer"}
        for name in SIZES
    }
