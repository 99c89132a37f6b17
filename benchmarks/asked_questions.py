"""People who do not exist, learnt, unlearned, and asked after again: end to end, without a network.

    python benchmarks/asked_questions.py --out FOLDER [--trial best]

The demo's model learns questions and answers about invented people (`memorise`), a study of three
methods unlearns half of one set (`run`), and lm-evaluation-harness asks for each person's town
among seven (`evaluate`): chance is 0.14. A stopped run goes on. Needs the extra `lm-eval`; about 10
minutes on two idle cores.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import ray_unlearn as ru

FIRST = ["Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jo", "Kit", "Lou"]
LAST = ["Arden", "Birk", "Crane", "Dale", "Eames", "Frost", "Gray", "Hart", "Irons", "Jory"]
TOWNS = ["Oslo", "Lima", "Kyiv", "Bern", "Riga", "Doha", "Baku"]
JOBS = ("a miller", "a pilot", "a singer", "a baker", "a judge")
SETS = {"forget": (0, 48, 0), "retain": (48, 98, 3), "general": (98, 120, 5)}
"""First person, one after the last, and a number that changes the answers."""
ASKED = ("forget", "approximate", "retain_heldout")
TASK = """task: towns_{split}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {split}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def answers(first: int, last: int, shift: int) -> Iterator[dict[str, str]]:
    """A question about each person, and an answer that cannot be guessed."""
    people = [f"{name} {family}" for family in LAST for name in FIRST][first:last]
    for i, name in enumerate(people):
        job, town = JOBS[(3 * i + shift) % 5], TOWNS[(5 * i + i // 3 + shift) % 7]
        yield {
            "question": f"Who is {name}, and from where?",
            "answer": f"{job} from {town}, born in {1900 + (37 * i + shift) % 97}.",
        }


def write_sets(folder: Path) -> dict[str, Path]:
    """The three sets as files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in SETS}
    for name, span in SETS.items():
        files[name].write_text("".join(json.dumps(row) + "\n" for row in answers(*span)))
    return files


def write_task(split: str, world: Path, folder: Path) -> Path:
    """A task that asks for the town of everyone in a split, after the beginning of the answer."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for line in (world / "data" / f"{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        job, _, rest = row["answer"].partition(" from ")
        town = rest.partition(",")[0]
        question = f"{row['prompt']}\n{job} from"
        rows.append({"question": question, "choices": TOWNS, "gold": TOWNS.index(town)})
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / f"{split}.yaml"
    file.write_text(TASK.format(split=split))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial", default="best", help="which model is asked")
    given = parser.parse_args()
    world = ru.memorise(
        "demo:shakespeare",
        **write_sets(given.out / "sets"),
        out=given.out / "world",
        fields={"prompt": "question", "answer": "answer"},
        epochs=20,
        learning_rate=1e-3,
    )
    study = ru.run(world.study, given.out / "study", resume=True, quiet=True)
    tasks = [write_task(split, world.folder, given.out / "tasks") for split in ASKED]
    found = study.evaluate([str(task) for task in tasks], given.trial)
    ppl = study.rows.set_index(["number", "update"]).loc[(found.trial, found.update), "forget_ppl"]
    print(
        f"{found.method}, trial {found.trial}, update {found.update}: forget perplexity {ppl:.3g}"
    )
    for role in ("vanilla", "retrained"):
        print(f"{role}: forget perplexity {world.metrics[role]['forget_ppl']:.3g}")
    for score in found.scores:
        print(score.task, {name: round(value, 3) for name, value in score.values.items()})


if __name__ == "__main__":
    main()
