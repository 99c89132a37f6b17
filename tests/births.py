"""Tasks of lm-evaluation-harness with their data, and what is right without the harness."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest

HAS_HARNESS = find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not HAS_HARNESS, reason="lm-eval is missing: pip install 'ray-unlearn[lm-eval]'"
)
QUESTIONS = [
    {"question": f"Where was {name} born?", "answer": f" in {town}"}
    for name, town in (("Ada", "Oslo"), ("Bo", "Lima"), ("Cleo", "Bern"), ("Dan", "Riga"))
]
TASK = """
task: births
dataset_path: json
dataset_kwargs: {data_files: {test: births.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
"""A loglikelihood task."""
CHOICES = """
task: towns
dataset_path: json
dataset_kwargs: {data_files: {test: births.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [" in Oslo", " in Lima", " in Bern", " in Riga"]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ANSWERS = """
task: told
dataset_path: json
dataset_kwargs: {data_files: {test: births.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["?"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def task_files(folder: Path) -> Path:
    """`births.yaml`, `towns.yaml` and `told.yaml` with their data in a folder; the first one."""
    lines = [json.dumps(row) + "\n" for row in QUESTIONS]
    (folder / "births.jsonl").write_text("".join(lines))
    for name, text in (("births", TASK), ("towns", CHOICES), ("told", ANSWERS)):
        (folder / f"{name}.yaml").write_text(text)
    return folder / "births.yaml"


def answer_logprobs(model: object, tokenizer_folder: Path) -> list[float]:
    """log P of each question's answer, without the harness."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    found = []
    for row in QUESTIONS:
        question = tokenizer(row["question"])["input_ids"]
        ids = torch.tensor([question + tokenizer(row["answer"])["input_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].double().log_softmax(-1)  # type: ignore[operator]
        chosen = logprobs.gather(-1, ids[0, 1:, None])[len(question) - 1 :]
        found.append(float(chosen.sum()))
    return found


def own_perplexity(folder: Path, tokenizer_folder: Path) -> float:
    """exp of minus the mean log-probability of an answer, without the harness."""
    from transformers import AutoModelForCausalLM

    logprobs = answer_logprobs(AutoModelForCausalLM.from_pretrained(folder), tokenizer_folder)
    return math.exp(-sum(logprobs) / len(logprobs))
