"""Methods that teach other answers to the forget set's prompts: DPO and IDK."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from questions import question_files
from test_checkpoint import it_goes_on
from tiny import study_file

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.unlearn.alternatives import ALTERNATIVE, REFUSALS, drawn_alternatives
from ray_unlearn.unlearn.batch import apart, joined_batches, padded, ragged
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.sources import read_documents
from ray_unlearn.unlearn.workspace import Workspace

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]
METHODS = ["dpo", "dpo_descent_in_distribution", "idk", "idk_descent_in_distribution"]


def answered(
    folder: Path, texts: Path, model: Path, alternative: bool = False, **data: Any
) -> StudySpec:
    """A study of questions and answers, with alternative ones in its forget set or without."""
    splits: dict[str, dict[str, str]] = question_files(folder)
    if alternative:
        path = Path(splits["forget"]["path"])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["other"] = [f"In {town}." for town in ("Rome", "Paris")][: 1 + number % 2]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        splits["forget"]["alternative"] = "other"
    content = {"domain": "people", "sequence_length": 64, "splits": splits} | data
    return load_study(study_file(folder, texts, model, data=content, methods=METHODS[:1]))


@pytest.fixture
def spec(tmp_path: Path, text_files: Path, tiny_model: Path) -> StudySpec:
    return answered(tmp_path, text_files, tiny_model)


def opened(spec: StudySpec, data: StudyData | None = None, **operated: object) -> Workspace:
    operations = spec.operations.model_copy(update=operated)
    data = data or prepare(spec.data, spec.model, answers=("alternative",))
    return Workspace.open(spec.model, data, spec.evaluation, operations, Comm.single())


def config(method: str, **values: object) -> TrialConfig:
    least: dict = {
        "learning_rate": 3e-3, "steps": 4, "batch_size": 8, "evaluate_at": (2, 4), "seed": 5
    }  # fmt: skip
    return TrialConfig(method=method, **(least | values))


def run(workspace: Workspace, config: TrialConfig) -> list[dict]:
    *rows, ended = unlearn(workspace, config)
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    return [{n: row[n] for n in REPEATABLE if n in row} for row in rows if isinstance(row, dict)]


def answers(spec: StudySpec, data: StudyData) -> list[str]:
    """The alternative answers as texts, in order."""
    tokenizer, tokens = load_tokenizer(spec.model), data.splits[ALTERNATIVE]
    return [
        tokenizer.decode(row[1:][mask]).strip()
        for row, mask in zip(tokens.input_ids, tokens.target_mask, strict=True)
    ]


def test_each_prompt_has_each_refusal(spec: StudySpec) -> None:
    data = prepare(spec.data, spec.model, answers=("alternative",))
    forget, other = data.splits["forget"], data.splits[ALTERNATIVE]
    assert len(other) == len(REFUSALS) * len(forget)
    assert answers(spec, data) == list(REFUSALS) * len(forget)
    for i in (0, len(other) - 1):
        document = int(other.document[i, 0])
        assert document == i // len(REFUSALS)
        end = int(np.flatnonzero(other.target_mask[i])[0]) + 1
        assert (other.input_ids[i, :end] == forget.input_ids[document, :end]).all()


def test_refusals_change_no_digest_and_are_made_only_where_asked_for(spec: StudySpec) -> None:
    """A study of answers that was begun before there were alternatives can be resumed."""
    without, with_them = (
        prepare(spec.data, spec.model, answers=on) for on in ((), ("alternative",))
    )
    assert ALTERNATIVE not in without.splits
    assert (without.digest, without.former_digest) == (with_them.digest, with_them.former_digest)
    assert without.split_digests == with_them.split_digests
    assert "alternative" not in str(spec.decisive()["data"])


def test_the_datas_own_alternatives_are_read_and_count(
    tmp_path: Path, text_files: Path, tiny_model: Path
) -> None:
    spec = answered(tmp_path, text_files, tiny_model, alternative=True)
    data = prepare(spec.data, spec.model, answers=("alternative",))
    assert answers(spec, data)[:4] == ["In Rome.", "In Rome.", "In Paris.", "In Rome."]
    assert data.splits[ALTERNATIVE].document[:4, 0].tolist() == [0, 1, 1, 2]
    path = Path(str(spec.data.splits["forget"].path))
    path.write_text(path.read_text().replace("Paris", "Milan"))
    changed = prepare(spec.data, spec.model)
    assert changed.digest != data.digest
    assert [n for n, d in changed.split_digests.items() if data.split_digests[n] != d] == [
        ALTERNATIVE
    ]


@pytest.mark.parametrize("value", ['""', "[]", '["In Rome.", " "]', "3"])
def test_an_alternative_that_is_no_text_is_refused(
    tmp_path: Path, text_files: Path, tiny_model: Path, value: str
) -> None:
    spec = answered(tmp_path, text_files, tiny_model, alternative=True)
    path = Path(str(spec.data.splits["forget"].path))
    path.write_text(path.read_text().replace('["In Rome."]', value, 1))
    with pytest.raises(UserError, match="line 1: field 'other'"):
        read_documents(spec.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retain": {"alternative": "other"}}, "only documents of `forget`"),
        ({"forget": {"prompt": None, "answer": None}}, "dpo teaches other answers"),
        (
            {"forget": {"prompt": None, "answer": None, "alternative": "other"}},
            "`alternative` needs a prompt",
        ),
    ],
)
def test_a_study_without_prompts_or_with_alternatives_elsewhere_is_refused(
    spec: StudySpec, change: dict, message: str
) -> None:
    content = spec.model_dump(mode="json")
    for split, values in change.items():
        content["data"]["splits"][split] |= values
    with pytest.raises(ValueError, match=message):
        StudySpec.model_validate(content)


def test_alternatives_are_drawn_by_seed_document_and_epoch_alone(spec: StudySpec) -> None:
    data = prepare(spec.data, spec.model, answers=("alternative",))
    forget, other = data.splits["forget"], data.splits[ALTERNATIVE]
    every = np.arange(len(forget))

    def drawn(indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        return drawn_alternatives(forget, other, indices, np.full(len(indices), epoch), seed)

    first = drawn(every, 0, 3)
    assert (first // len(REFUSALS) == every).all()
    assert (drawn(every[5:9], 0, 3) == first[5:9]).all()
    assert len(set(first % len(REFUSALS))) > 3
    for changed in (drawn(every, 1, 3), drawn(every, 0, 4)):
        assert (changed != first).mean() > 0.5


def test_two_batches_in_one_pass_are_the_two_apart(spec: StudySpec) -> None:
    """Of each layout, padded to one width where they have rows."""
    data = prepare(spec.data, spec.model, answers=("alternative",))
    model = load_model(spec.model)
    for make in (padded, apart):
        one, other = (
            make(data.splits[name], np.array(indices), torch.device("cpu"))
            for name, indices in (("forget", [3, 1]), (ALTERNATIVE, [11, 2, 60]))
        )
        both, found = joined_batches(one, other), []
        for each in (one, other, both):
            states = model.model(input_ids=each.input_ids, position_ids=each.position_ids)
            found.append(states.last_hidden_state.flatten(0, 1)[each.rows])
        assert torch.allclose(torch.cat(found[:2]), found[2], atol=1e-5)
        assert torch.equal(torch.cat([one.targets, other.targets]), both.targets)
    one, other = (ragged(data.splits[ALTERNATIVE], np.array([i]), one.rows.device) for i in (5, 90))
    both = joined_batches(one, other)
    assert both.document_lengths == one.document_lengths + other.document_lengths
    assert torch.equal(both.input_ids[0, both.rows + 1], both.targets)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("packed", [False, True])
def test_trajectory_equals_plain_pytorch(
    tmp_path: Path, text_files: Path, tiny_model: Path, method: str, packed: bool
) -> None:
    """Whole logits and a row for each answer, as a reader would check it."""
    layout = {"layout": "pack" if packed else "pad"}
    spec = answered(tmp_path, text_files, tiny_model, **layout)
    workspace = opened(spec)
    data = workspace.data
    apart = prepare(spec.data.model_copy(update={"layout": "pad"}), spec.model)
    own = {"beta": 0.3} if method.startswith("dpo") else {}
    own |= {"w_f": 0.7, "w_r": 2.0} if "descent" in method else {}
    rows = run(workspace, config(method, batch_size=4, **own))
    model, vanilla = load_model(spec.model), load_model(spec.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for update in range(1, 5):
        tokens = data.splits["forget"]
        indices, epochs = batch(5, "forget", update, 4, len(tokens))
        other = drawn_alternatives(tokens, data.splits[ALTERNATIVE], indices, epochs, 5)
        documents = data.splits[ALTERNATIVE].document[other, 0]
        of_others, others = _documents(model, data.splits[ALTERNATIVE], other)
        if method.startswith("dpo"):
            ratio = of_others - _documents(vanilla, data.splits[ALTERNATIVE], other)[0].detach()
            for which, sign in ((model, -1), (vanilla, 1)):
                ratio = ratio + sign * _documents(which, apart.splits["forget"], documents)[0]
            loss = -2 / 0.3 * F.logsigmoid(0.3 * ratio).mean()
        else:
            loss = -of_others.sum() / others
        if "descent" in method:
            retain = data.splits["retain"]
            chosen, _ = batch(5, "retain", update, 4, len(retain))
            held = np.unique(retain.document[chosen][retain.document[chosen] >= 0])
            of_retain, targets = _documents(model, apart.splits["retain"], held)
            loss = 0.7 * loss - 2 * of_retain.sum() / targets
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    mine, theirs, start = (
        torch.cat([p.detach().flatten() for p in which.parameters()])
        for which in (workspace.policy.model, model, vanilla)
    )
    assert (mine - theirs).norm() < 5e-3 * (theirs - start).norm()
    assert len(rows) == 2


def _documents(model: Any, tokens: Any, indices: np.ndarray) -> tuple[torch.Tensor, int]:
    """Log-probability of each sequence's targets, and the number of targets in all."""
    ids = torch.from_numpy(tokens.input_ids[indices]).long()
    real = torch.from_numpy(tokens.target_mask[indices])
    logp = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logp * real).sum(1), int(real.sum())


@pytest.mark.parametrize("method", METHODS)
def test_used_workspace_equals_fresh_one_bit_for_bit(spec: StudySpec, method: str) -> None:
    expected = run(opened(spec), config(method))
    used = opened(spec)
    run(used, config("npo", seed=9))
    next(unlearn(used, config("idk" if method.startswith("dpo") else "dpo")))
    for _ in range(2):
        assert run(used, config(method)) == expected


@pytest.mark.parametrize("method", METHODS[:1] + METHODS[2:3])
@pytest.mark.parametrize("changes", [{"micro_batch_size": 3}, {"head": "plain"}])
def test_micro_batches_and_heads_give_the_same_trajectory(
    spec: StudySpec, method: str, changes: dict
) -> None:
    whole, parts = (run(opened(spec, **ops), config(method)) for ops in ({}, changes))
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


def test_forget_tokens_are_those_of_the_documents_forgotten(spec: StudySpec) -> None:
    """So methods compare at equal forget tokens; FLOPs count what is really passed."""
    workspace = opened(spec)
    rows = {name: run(workspace, config(name))[-1] for name in (*METHODS, "npo")}
    assert len({row["forget_tokens"] for row in rows.values()}) == 1
    assert rows["dpo"]["flops"] > 1.5 * max(rows[name]["flops"] for name in ("npo", "idk"))


@pytest.mark.parametrize("method", ["dpo", "idk"])
def test_the_alternative_becomes_likelier_than_the_answer(spec: StudySpec, method: str) -> None:
    workspace = opened(spec)
    rows = run(workspace, config(method, steps=40, evaluate_at=(1, 40), batch_size=24))
    assert rows[-1]["forget_loss"] < rows[0]["forget_loss"]
    if method == "dpo":
        assert rows[-1]["forget_nll"] > rows[0]["forget_nll"]
    tokens, model = workspace.data.splits, workspace.policy.model
    every = np.arange(20)
    alternative, n = _documents(model, tokens[ALTERNATIVE], every)
    before, _ = _documents(load_model(spec.model), tokens[ALTERNATIVE], every)
    assert (alternative - before).sum() / n > 0.5


def test_a_lane_adopts_the_vanilla_models_states_of_alternatives(spec: StudySpec) -> None:
    first, second = opened(spec), opened(spec)
    quantities = first.quantities(["dpo"])
    assert set(quantities["hidden"]) >= {"forget", ALTERNATIVE}
    second.adopt(quantities)
    assert run(second, config("dpo")) == run(opened(spec), config("dpo"))
    assert ALTERNATIVE not in opened(spec).quantities(["idk"])["hidden"]


@pytest.mark.parametrize("method", ["dpo", "idk"])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(
    spec: StudySpec, tmp_path: Path, method: str
) -> None:
    it_goes_on(lambda: opened(spec), method, tmp_path, 3)


def test_padding_of_alternatives_counts_nowhere(spec: StudySpec) -> None:
    data = prepare(spec.data, spec.model, answers=("alternative",))
    tokens = data.splits[ALTERNATIVE]
    ids = np.where(tokens.document < 0, 17, tokens.input_ids).astype(np.int32)
    other = replace(data, splits=dict(data.splits) | {ALTERNATIVE: replace(tokens, input_ids=ids)})
    for method in ("dpo", "idk"):
        assert run(opened(spec), config(method)) == run(opened(spec, other), config(method))
