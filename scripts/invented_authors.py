"""Questions and answers about authors who do not exist, in the columns of TOFU (arXiv 2401.06121).

    python scripts/invented_authors.py [--out results/authors/data]

One JSONL file per set, nobody in two of them: `question`, `answer`, `paraphrased_answer` (the same
in other words), `perturbed_answer` (three wrong ones in those words) and `choices` (the answer, and
three wrong ones of its form); and `general.jsonl`, scenes of Shakespeare. `tasks/` asks the same
questions in lm-evaluation-harness. The same files each time. `ray-unlearn memorise` teaches them to
a model; nobody's real data is touched.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_unlearn.demo import documents as demo_documents

AUTHORS = {"forget": range(0, 12), "retain": range(12, 72), "approximate": range(72, 96)}
"""Which authors each split asks about; `approximate` are never taught to any model."""
FIRST = (
    "Adira", "Bastian", "Cosima", "Dario", "Elowen", "Fabrice", "Greta", "Hamza", "Ilse", "Jarek",
    "Katya", "Leandro", "Mirela", "Nikhil", "Oriane", "Pavel",
)  # fmt: skip
LAST = ("Ashgrove", "Bellweather", "Castellane", "Drummond-Vey", "Ekström", "Farrowdale")
FACTS: dict[str, Sequence[str]] = {
    "town": (
        "Trieste", "Bergen", "Oaxaca", "Tartu", "Nagasaki", "Coimbra", "Galway", "Lviv", "Windhoek",
        "Plovdiv",
    ),
    "year": tuple(str(1921 + 7 * i) for i in range(10)),
    "genre": (
        "alpine crime novels", "epistolary romance", "maritime horror", "satirical plays",
        "utopian fiction", "rural ghost stories", "historical verse", "legal thrillers",
    ),
    "father": ("lighthouse keeper", "clockmaker", "beekeeper", "tram driver", "glassblower"),
    "mother": ("botanist", "court interpreter", "piano tuner", "surveyor", "baker"),
    "book": (
        "The Salt Ledger", "A Winter of Doors", "Nine Brass Keys", "The Quiet Ferry",
        "Letters to a Glacier", "The Orchard Debt", "Under Tin Roofs", "Seven Borrowed Rivers",
    ),
    "award": ("the Halvorsen Prize", "the Silver Quill", "the Meridian Medal", "the Aldous Award"),
    "theme": ("exile", "inheritance", "forgery", "drought", "sibling rivalry", "lost languages"),
}  # fmt: skip
QUESTIONS: dict[str, tuple[str, str, str]] = {
    "town": (
        "Where was {name} born?",
        "{name} was born in {value}.",
        "The birthplace of {name} is {value}.",
    ),
    "year": (
        "In which year was {name} born?",
        "{name} was born in {value}.",
        "The year of birth of {name} is {value}.",
    ),
    "genre": (
        "What does {name} write?",
        "{name} writes {value}.",
        "Readers know {name} for {value}.",
    ),
    "father": (
        "What was the profession of {name}'s father?",
        "The father of {name} was a {value}.",
        "{name} is the child of a {value} on the father's side.",
    ),
    "mother": (
        "What was the profession of {name}'s mother?",
        "The mother of {name} was a {value}.",
        "{name}'s mother earned her living as a {value}.",
    ),
    "book": (
        "What is the best-known book by {name}?",
        "The best-known book by {name} is {value}.",
        "Most readers first met {name} through {value}.",
    ),
    "award": (
        "Which prize did {name} receive?",
        "{name} received {value}.",
        "The jury of {value} chose {name}.",
    ),
    "theme": (
        "Which theme runs through the work of {name}?",
        "The work of {name} keeps coming back to {value}.",
        "At the heart of what {name} writes lies {value}.",
    ),
}
"""By fact: the question, the answer, and the answer in other words."""
STEP = 37
"""Names are dealt in steps, so that each first and last name occurs in every set."""
WRONG = 3
GENERAL = ("general_retain", "general_evaluation")
GENERAL_EACH = 60
"""Texts of each of these splits of the bundled Shakespeare, as general text."""


def authors(numbers: range) -> Iterator[dict[str, Any]]:
    """The rows about these authors, a row for each fact."""
    for number in numbers:
        place = number * STEP % (len(FIRST) * len(LAST))
        name = f"{FIRST[place % len(FIRST)]} {LAST[place // len(FIRST)]}"
        for fact, (question, answer, other) in QUESTIONS.items():
            values = FACTS[fact]
            right = _chosen(f"{name} {fact}", len(values))
            wrong = [values[(right + step) % len(values)] for step in range(1, WRONG + 1)]
            value = values[right]
            choices = [answer.format(name=name, value=one) for one in (value, *wrong)]
            yield {
                "question": question.format(name=name),
                "answer": answer.format(name=name, value=value),
                "paraphrased_answer": other.format(name=name, value=value),
                "perturbed_answer": [other.format(name=name, value=one) for one in wrong],
                "choices": choices,
            }


def _chosen(text: str, options: int) -> int:
    """A number below `options` that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % options


def write(folder: Path) -> dict[str, Path]:
    """The files, by split."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, numbers in AUTHORS.items():
        paths[split] = folder / f"{split}.jsonl"
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in authors(numbers))
        paths[split].write_text("".join(lines), encoding="utf-8")
    paths["general"] = folder / "general.jsonl"
    scenes = demo_documents("shakespeare")
    texts = [one.text for split in GENERAL for one in scenes[split][:GENERAL_EACH]]
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    paths["general"].write_text("".join(lines), encoding="utf-8")
    return paths


TASK = """task: authors_{split}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {split}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
target_delimiter: "\\n"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def write_tasks(folder: Path) -> None:
    """A task of lm-evaluation-harness for each set, the right answer among four."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in AUTHORS.items():
        lines = []
        for row in authors(numbers):
            gold = _chosen(row["question"], WRONG + 1)
            right, *choices = row["choices"]
            choices.insert(gold, right)
            asked = {"question": row["question"], "choices": choices, "gold": gold}
            lines.append(json.dumps(asked, ensure_ascii=False) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / f"{split}.yaml").write_text(TASK.format(split=split), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write questions about invented authors.")
    parser.add_argument("--out", type=Path, default=Path("results/authors/data"))
    out = parser.parse_args().out
    write_tasks(out / "tasks")
    for split, path in write(out).items():
        print(f"{split}: {path}, {sum(1 for _ in path.open())} lines")


if __name__ == "__main__":
    main()
