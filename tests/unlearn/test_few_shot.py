"""Questions of a watched set with examples before them, as MUSE asks what a model knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_watched_sets import opened, watching  # noqa: F401

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import GenerateSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.questions import questions_of

EXAMPLES = [("Who wrote it?", "Ada did."), ("When?", "In May.")]
MUSE = (
    "{% for m in messages %}{{ 'Question: ' if m.role == 'user' else '\nAnswer: ' }}"
    "{{ m.content }}{{ '\n\n' if m.role == 'assistant' and not loop.last }}{% endfor %}"
)


def muse_prompt(question: str) -> str:
    """As MUSE's `knowmem.eval` makes it."""
    general_prompt = ""
    for q, a in EXAMPLES:
        general_prompt += f"Question: {q}\nAnswer: {a}\n\n"
    return general_prompt + f"Question: {question}\nAnswer: "


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """The examples as a source."""
    lines = [json.dumps({"q": q, "a": a}) + "\n" for q, a in EXAMPLES]
    (tmp_path / "examples.jsonl").write_text("".join(lines))
    return {"path": "examples.jsonl", "prompt": "q", "answer": "a"}


@pytest.fixture
def asking(watching, shown: dict[str, Any]):  # noqa: F811
    """A function that loads a study with the forget questions watched as `asked`."""

    def load(data: dict | None = None, examples: Any = shown, **evaluation: Any) -> StudySpec:
        one = watching.splits["forget"] | ({} if examples is None else {"examples": examples})
        return watching(
            data={"sequence_length": 128} | (data or {}), sets={"asked": one}, **evaluation
        )

    return load


def prompts(spec: StudySpec) -> list[tuple[str, str]]:
    """What is asked, and the true answer."""
    asked = GenerateSpec(sets=("asked",))
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    found = questions_of(data.evaluated("asked"), asked)
    return [(data.tokenizer.decode(one.prompt), data.tokenizer.decode(one.answer)) for one in found]


def test_a_prompt_is_what_muse_asks_and_the_answer_alone_is_measured(asking) -> None:
    from questions import questions

    generated = {"sets": ["asked"], "max_new_tokens": 4}
    spec = asking(data={"chat_template": MUSE}, generate=generated)
    for (prompt, answer), row in zip(prompts(spec), questions("forget"), strict=False):
        # The space before an answer is part of its first token.
        assert prompt == muse_prompt(row["question"]).rstrip(" ")
        assert answer.strip() == row["answer"]
    data = prepare(spec.data, spec.model, evaluation=spec.evaluation)
    tokens = data.evaluated("asked")
    assert tokens.prompt is not None
    assert not np.any(tokens.prompt[:, 1:] & tokens.target_mask)
    assert "asked_rouge_l" in evaluate(opened(spec))


def test_without_a_template_examples_are_written_as_questions_are(asking) -> None:
    (first, _), *_ = prompts(asking(generate={"sets": ["asked"]}, data={"separator": " -> "}))
    assert first.startswith("Who wrote it? -> Ada did.\n\nWhen? -> In May.\n\nWhere was ")


def test_examples_are_another_question_and_a_study_without_them_is_what_it_was(
    asking, tmp_path: Path
) -> None:
    bare, shown = asking(examples=None), asking()
    rows = [evaluate(opened(spec)) for spec in (bare, shown)]
    assert rows[0]["asked_nll"] != rows[1]["asked_nll"]
    assert rows[0]["forget_nll"] == rows[1]["forget_nll"]
    assert "examples" not in bare.decisive()["evaluation"]["sets"]["asked"]
    kept = shown.decisive()["evaluation"]["sets"]["asked"]["examples"]
    assert kept["path"] == "a local path"
    digests = [prepare(s.data, s.model, evaluation=s.evaluation).digest for s in (bare, shown)]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": None, "answer": None}, "name the fields `prompt` and `answer`"),
        ({"perturbed": "wrong"}, "examples.perturbed: is not read; remove it"),
        ({"answr": "a"}, "unknown key"),
    ],
)
def test_examples_that_are_no_questions_are_refused(
    asking, shown: dict[str, Any], changes: dict, said: str
) -> None:
    with pytest.raises(UserError, match=r"evaluation\.sets\.asked") as caught:
        asking(examples=shown | changes)
    assert said in str(caught.value)


def test_a_missing_file_of_examples_is_said_by_the_plan(asking, shown: dict[str, Any]) -> None:
    spec = asking(examples=shown | {"path": "gone.jsonl"})
    (refused,) = admission(spec, measures=False).states("refused")
    assert "evaluation.sets.asked.examples" in str(refused)
