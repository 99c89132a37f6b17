"""Greedy answers: of padded prompts in a batch what each alone would be, whatever the model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from questions import question_files
from test_watched_sets import opened, watching  # noqa: F401
from tiny import study_file
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.evaluation_spec import GenerateSpec
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.unlearn.decoding import can_cache, greedy
from ray_unlearn.unlearn.generated import answers, generated_metrics
from ray_unlearn.unlearn.questions import Question, questions_of
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace

PROMPTS = [[5, 9, 17, 31, 8, 44, 2], [7], [12, 3, 250, 99]]


def decoded(workspace: Workspace, prompts: list[list[int]], **how: bool) -> list[list[int]]:
    anchor = workspace.batch("forget", np.zeros(1, dtype=np.int64))
    return greedy(workspace.policy.scored, anchor, prompts, 12, (0, 1), **how)


def by_hand(workspace: Workspace, prompt: list[int]) -> list[int]:
    """One token at a time, from whole logits."""
    ids = list(prompt)
    for _ in range(12):
        with torch.no_grad():
            token = int(workspace.policy.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in (0, 1):
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_padded_prompts_are_answered_as_each_alone(watching) -> None:  # noqa: F811
    workspace = opened(watching())
    expected = [by_hand(workspace, prompt) for prompt in PROMPTS]
    assert workspace.can_cache
    for cached in (True, False):
        for together in (True, False):
            assert decoded(workspace, PROMPTS, cached=cached, together=together) == expected
        alone = [decoded(workspace, [prompt], cached=cached)[0] for prompt in PROMPTS]
        assert alone == expected


def test_a_models_own_settings_do_not_change_greedy_answers(watching) -> None:  # noqa: F811
    """Models come with a penalty on repetition in generation_config.json; and after answering, the
    model trains and is saved with what it had."""
    workspace = opened(watching())
    expected = decoded(workspace, PROMPTS, cached=True)
    model = workspace.policy.model
    own = GenerationConfig(repetition_penalty=50.0, do_sample=True, temperature=9.0)
    model.generation_config = own
    attention = model.config._attn_implementation
    assert decoded(workspace, PROMPTS, cached=True) == expected
    assert model.generation_config is own
    assert model.config._attn_implementation == attention == "ray_unlearn_documents"


def test_a_state_that_sees_padding_is_found_out(watching) -> None:  # noqa: F811
    """A Mamba that is not told of padding has it in its state: plain passes answer then."""
    workspace = opened(watching())
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(**shape, tie_word_embeddings=False)).eval()
    torch.nn.init.normal_(model.lm_head.weight)
    inputs = model.prepare_inputs_for_generation

    def blind(*given: object, **named: object) -> dict:
        return inputs(*given, **named) | {"attention_mask": None}

    model.prepare_inputs_for_generation = blind
    anchor = workspace.batch("forget", np.zeros(1, dtype=np.int64))
    assert not can_cache(Scored(model), anchor)


def test_questions_are_prompts_with_their_answers(watching) -> None:  # noqa: F811
    workspace = opened(watching(generate={"sets": ["forget"]}))
    tokens, tokenizer = workspace.data.evaluated("forget"), workspace.data.tokenizer
    found = questions_of(tokens, GenerateSpec(sets=("forget",), documents=3))
    assert len(found) == 3
    every = questions_of(tokens, GenerateSpec(sets=("forget",)))
    assert [found[0], found[-1]] == [every[0], every[-1]]
    assert tokenizer.decode(every[0].prompt).endswith("born?\n")
    assert tokenizer.decode(every[0].answer).startswith("In ")


def test_the_continuation_of_a_text_is_asked_for(tmp_path: Path, text_files, tiny_model) -> None:
    """MUSE's verbatim memorisation: the first tokens are the prompt, those after it the answer."""
    spec = load_study(study_file(tmp_path, text_files, tiny_model))
    for layout in ("pad", "pack"):
        changed = spec.model_copy(update={"data": spec.data.model_copy(update={"layout": layout})})
        tokens = opened(changed).data.evaluated("forget")
        asked = GenerateSpec(sets=("forget",), prompt_tokens=10, max_new_tokens=5)
        found = questions_of(tokens, asked)
        assert len(found) == len(tokens.selection)
        assert {(len(q.prompt), len(q.answer)) for q in found} == {(10, 5)}
        row = int(np.flatnonzero(tokens.document[:, 0] == 0)[0])
        assert found[0].prompt + found[0].answer == tokens.input_ids[row, :15].tolist()


def test_what_is_true_scores_one(watching, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Asked for its own greedy answers, a model gives them."""
    spec = watching(generate={"sets": ["forget"], "max_new_tokens": 6, "stop": ["qq"]})
    workspace = opened(spec)
    asked = spec.evaluation.generate[0]
    questions = questions_of(workspace.data.evaluated("forget"), asked)
    scored = workspace.policy.scored
    given = answers(workspace, scored, questions, asked)
    assert given is not None
    again = decoded_answers(workspace, questions)
    own = [q._replace(answer=answer) for q, answer in zip(questions, again, strict=True)]
    monkeypatch.setattr("ray_unlearn.unlearn.generated.questions_of", lambda *_: own)
    row = generated_metrics(workspace, scored, True)
    worded = np.mean([any(c.isascii() and c.isalnum() for c in text) for text in given])
    assert row["forget_exact_match"] == 1.0
    assert row["forget_rouge_l"] == row["forget_rouge_l_f1"] == pytest.approx(worded)


def decoded_answers(workspace: Workspace, questions: list[Question]) -> list[list[int]]:
    stops = workspace.data.special_tokens
    anchor = workspace.batch("forget", np.zeros(1, dtype=np.int64))
    scored = workspace.policy.scored
    return [
        greedy(scored, anchor, [question.prompt], 6, stops, cached=False)[0]
        for question in questions
    ]


def test_an_answer_beyond_the_positions_is_refused(
    tmp_path: Path, text_files: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """GPT-2 has a table of positions: the 65th token would be an IndexError in a lane."""
    folder = tmp_path_factory.mktemp("gpt2")
    for file in tiny_model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 300}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(folder)
    splits = question_files(tmp_path)
    content = {"domain": "people", "sequence_length": 64, "splits": splits}
    for tokens, refused in ((4, False), (64, True)):
        evaluation = {"at": [1], "generate": {"sets": ["forget"], "max_new_tokens": tokens}}
        changes = {"data": content, "evaluation": evaluation}
        spec = load_study(study_file(tmp_path, text_files, folder, **changes))
        if refused:
            with pytest.raises(UserError, match=r"evaluation\.generate: prompt and answer: \d+"):
                opened(spec)
        else:
            assert opened(spec).can_cache
