"""Methods of more than two terms: each is seen, and the forget set's budget stays what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from questions import question_files
from test_alternatives import REPEATABLE, config, opened, run
from tiny import study_file

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_registry import register
from ray_unlearn.spec.method_terms import Loss, TermSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.study_columns import study_columns
from ray_unlearn.unlearn.alternatives import MISMATCHED, MISMATCHES
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.loop import unlearn
from ray_unlearn.unlearn.methods import terms
from ray_unlearn.unlearn.model import load_tokenizer


@pytest.fixture
def spec(tmp_path: Path, text_files: Path, tiny_model: Path) -> StudySpec:
    data = {"domain": "people", "sequence_length": 64, "splits": question_files(tmp_path)}
    return load_study(study_file(tmp_path, text_files, tiny_model, data=data, methods=["llmu"]))


def test_each_prompt_has_answers_of_retain_documents(spec: StudySpec) -> None:
    data = prepare(spec.data, spec.model, answers=("mismatched",))
    path = Path(str(spec.data.splits["retain"].path))
    known = {json.loads(line)["answer"] for line in path.read_text().splitlines()}
    forget, other = data.splits["forget"], data.splits[MISMATCHED]
    tokenizer = load_tokenizer(spec.model)
    assert len(other) == MISMATCHES * len(forget)
    for i in (0, len(other) - 1):
        mask = other.target_mask[i]
        assert tokenizer.decode(other.input_ids[i, 1:][mask]).strip() in known
        end = int(np.flatnonzero(mask)[0]) + 1
        assert (other.input_ids[i, :end] == forget.input_ids[i // MISMATCHES, :end]).all()
    assert data.digest == prepare(spec.data, spec.model).digest


def test_three_terms_consume_what_two_do_and_each_has_a_column(spec: StudySpec) -> None:
    workspace = opened(spec, prepare(spec.data, spec.model, answers=("mismatched",)))
    *rows, _ = unlearn(workspace, config("llmu", w_mismatch=0.5))
    *two, _ = unlearn(workspace, config("ascent_kl_in_distribution"))
    assert isinstance(rows[-1], dict)
    assert isinstance(two[-1], dict)
    for name in ("forget_tokens", "retain_tokens"):
        assert rows[-1][name] == two[-1][name], name
    assert rows[-1]["mismatch_loss"] > 0
    assert rows[-1]["flops"] > two[-1]["flops"]
    assert "mismatch_loss" in study_columns(spec)


def test_each_weight_is_that_of_its_term(spec: StudySpec) -> None:
    workspace = opened(spec, prepare(spec.data, spec.model, answers=("mismatched",)))
    weights = [term.weight for term in terms(config("llmu", w_f=2.0, w_mismatch=0.5, w_r=3.0))]
    assert weights == [2.0, 0.5, 3.0]
    *quiet, _ = unlearn(workspace, config("llmu", w_mismatch=1e-9))
    *loud, _ = unlearn(workspace, config("llmu", w_mismatch=10.0))
    assert isinstance(quiet[-1], dict)
    assert isinstance(loud[-1], dict)
    assert loud[-1]["mismatch_loss"] < quiet[-1]["mismatch_loss"], "it is minimised"


def test_used_lane_equals_fresh_one(spec: StudySpec) -> None:
    data = prepare(spec.data, spec.model, answers=("mismatched",))
    fresh = run(opened(spec, data), config("llmu"))
    used = opened(spec, data)
    run(used, config("gradient_ascent", learning_rate=0.1))
    assert run(used, config("llmu")) == fresh
    assert set(REPEATABLE) & set(fresh[0])


def test_texts_have_no_mismatched_answers(
    tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match="llmu teaches other answers to the prompts"):
        load_study(study_file(tmp_path, text_files, tiny_model, methods=["llmu"]))


def _nothing(given: object, chosen: object) -> torch.Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("name", ["My term", "utility", "1st"])
def test_a_term_that_has_no_column_is_not_registered(name: str) -> None:
    forget = TermSpec("forget", "forget", "ascent")
    other = TermSpec(name, "forget", Loss(_nothing, "logprobs"))
    with pytest.raises(UserError, match=f"a term cannot be named '{name}'"):
        register(Method("mine", "l", (forget, other)))
