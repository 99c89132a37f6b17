"""Attacks on an unlearned model: each measures what it says, and leaves the model as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import config, fresh, run
from torch import nn

from ray_unlearn.spec.attack_spec import AttackSpec
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.attack_file import AttackOutcome
from ray_unlearn.unlearn.attacks.measured_attacks import Attacker
from ray_unlearn.unlearn.attacks.prompting import paraphrased, with_prefix
from ray_unlearn.unlearn.attacks.quantising import round_weights, rounded_groups, rounded_nll
from ray_unlearn.unlearn.attacks.relearning import dealt_share, descend, relearning_curve
from ray_unlearn.unlearn.attacks.victim import loss_on, victim_of
from ray_unlearn.unlearn.evaluate import evaluate, forget_nll
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

HARD = {"learning_rate": 1e-2, "steps": 4, "evaluate_at": (4,)}
QUICK = AttackSpec(updates=(2, 5), learning_rate=1e-3)


def forgotten(spec: StudySpec) -> Workspace:
    """A workspace whose policy has forgotten a lot."""
    workspace = fresh(spec)
    run(workspace, config("gradient_ascent", **HARD))
    return workspace


def with_model(spec: StudySpec, **changes: object) -> StudySpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=changes)})


def bits_of(workspace: Workspace) -> list[torch.Tensor]:
    return [p.detach().clone() for p in workspace.policy.model.parameters()]


def linear(*channels: list[float]) -> nn.Linear:
    layer = nn.Linear(len(channels[0]), len(channels), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(channels))
    return layer


def test_each_group_of_weights_is_rounded_to_nearest_on_its_own_grid() -> None:
    """4 bits: 7 steps up to the group's greatest weight, so steps of 1, 0.1 and 10 here."""
    weights = torch.tensor([[7.0, -3.4, 0.6, 0.7, -0.34, 0.06, -70.0, 34.0]])
    by_hand = torch.tensor([[7.0, -3.0, 1.0, 0.7, -0.3, 0.1, -70.0, 30.0]])
    assert torch.allclose(rounded_groups(weights, bits=4, group_size=3), by_hand, atol=1e-6)
    zero = torch.zeros(2, 5)
    assert torch.equal(rounded_groups(zero, bits=4, group_size=2), zero)


def test_the_inputs_of_gpt_2_are_its_first_dimension() -> None:
    """Its layers store their weights the other way round; a group must not mix outputs."""
    from transformers.pytorch_utils import Conv1D

    plain, turned = linear([7.0, -3.4, 0.6], [0.7, -0.34, 0.06]), Conv1D(2, 3)
    with torch.no_grad():
        turned.weight.copy_(plain.weight.T)
    for layer in (plain, turned):
        round_weights(nn.Sequential(layer), bits=4, group_size=3)
    assert torch.equal(turned.weight.T, plain.weight)
    assert torch.allclose(plain.weight[1], torch.tensor([0.7, -0.3, 0.1]))


def test_embedding_and_output_head_keep_their_bits(tiny_study: StudySpec) -> None:
    """They are tied here: rounding the head would change every token's input too."""
    model = fresh(tiny_study).policy.model
    head = model.get_output_embeddings().weight.clone()
    inner = model.model.layers[0].mlp.up_proj.weight.clone()
    round_weights(model, bits=4, group_size=64)
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, inner)
    assert len(model.model.layers[0].mlp.up_proj.weight[0].unique()) <= 15


def test_sixteen_bits_change_next_to_nothing_and_two_a_lot(tiny_study: StudySpec) -> None:
    victim = victim_of(forgotten(tiny_study))
    before, _ = loss_on(victim, victim.workspace.data.splits["forget"])
    assert rounded_nll(victim, 16, 64) == pytest.approx(before, abs=1e-3)
    assert abs(rounded_nll(victim, 2, 64) - before) > 0.01


def test_descent_is_adamw_and_looks_between_its_updates() -> None:
    """A gradient of one sign moves each weight by the learning rate in each update (Adam)."""
    layer = linear([1.0, 2.0])
    x = torch.tensor([3.0, -4.0])
    seen = descend(
        list(layer.parameters()),
        lambda update: layer(x).sum(),
        lambda: float(layer(x).detach()),
        learning_rate=0.1,
        looks=(0, 1, 3),
    )
    assert list(seen) == [0, 1, 3]
    assert list(seen.values()) == pytest.approx([-5.0, -5.7, -7.1], abs=1e-4)
    assert layer.weight.grad is None


def packed(*rows: list[int]) -> TokenSet:
    document = np.array(rows, dtype=np.int32)
    size = int(document.max()) + 1
    halves = np.ones(size, dtype=bool)
    return TokenSet(np.ones_like(document), document, np.ones(size, dtype=np.int32), halves)


def test_no_document_is_both_learnt_and_measured() -> None:
    """One that is cut into two sequences, or shares one with a learnt document, would leak."""
    tokens = packed([0, 0, 0, 1], [1, 1, 2, 2], [3, 3, 3, -1], [4, 4, 5, 5], [6, 6, 6, 6])
    for share in (0.15, 0.3, 0.5):
        sequences, rest = dealt_share(tokens, share)
        learnt = set(tokens.document[sequences].ravel().tolist()) - {-1}
        assert learnt
        assert learnt.isdisjoint(np.flatnonzero(rest))
    with pytest.raises(UserError, match=r"share of 0.01 of 7 forget document\(s\).*learn"):
        dealt_share(tokens, 0.01)


def test_only_the_documents_asked_for_are_measured(tiny_study: StudySpec) -> None:
    victim = victim_of(forgotten(tiny_study))
    tokens = victim.workspace.data.splits["forget"]
    first = np.arange(len(tokens.selection)) < 3
    whole, some, others = (loss_on(victim, tokens, d)[0] for d in (None, first, ~first))
    counts = np.bincount(tokens.target_document, minlength=len(first))
    parts = some * counts[first].sum() + others * counts[~first].sum()
    assert parts / counts.sum() == pytest.approx(whole)
    row = evaluate(victim.workspace)
    assert whole == pytest.approx(row["forget_nll"], abs=1e-5)
    assert loss_on(victim, tokens)[1] == pytest.approx(row["forget_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    "model",
    [{}, {"dtype": "bfloat16"}, {"autocast": "bfloat16"}, {"lora": LoraSpec(rank=2)}],
    ids=["float32", "bfloat16", "autocast", "lora"],
)
def test_what_was_forgotten_comes_back_and_the_weights_are_put_back_bit_for_bit(
    tiny_study: StudySpec, model: dict[str, object]
) -> None:
    workspace = forgotten(with_model(tiny_study, **model))
    before, plain = bits_of(workspace), forget_nll(workspace)
    victim = victim_of(workspace)
    curve = relearning_curve(victim, "forget", QUICK)
    assert curve[0] > curve[2] > curve[5]
    rounded_nll(victim, 4, 8)
    assert all(map(torch.equal, before, bits_of(workspace)))
    assert forget_nll(workspace) == plain
    merged, _ = loss_on(victim, workspace.data.splits["forget"])
    assert merged == pytest.approx(plain, abs=1e-4 if workspace.policy.model.dtype.itemsize > 2
                                   else 2e-2)  # fmt: skip
    assert all(p.grad is None for p in victim.parameters)


def test_related_text_is_learnt_and_the_whole_forget_set_measured(tiny_study: StudySpec) -> None:
    victim = victim_of(forgotten(tiny_study))
    whole, _ = loss_on(victim, victim.workspace.data.splits["forget"])
    curve = relearning_curve(victim, "approximate", QUICK)
    assert curve[0] == pytest.approx(whole)
    assert curve[5] < curve[0]


def test_no_update_changes_nothing(tiny_study: StudySpec) -> None:
    how = AttackSpec(attacks=("relearn",), updates=(0,))
    for outcome in Attacker(forgotten(tiny_study), tiny_study, how, print).attack_policy():
        assert outcome.nll == outcome.before
        assert outcome.undone() == pytest.approx(0, abs=1e-12)


def test_a_model_that_never_forgot_has_nothing_to_relearn(
    tiny_study: StudySpec, tiny_model: Path
) -> None:
    """Its NLL falls as the vanilla model's does, and no share of anything is undone."""
    spec = with_model(tiny_study, exact_retrain=str(tiny_model))
    how = QUICK.model_copy(update={"attacks": ("relearn", "quantise")})
    outcomes = Attacker(fresh(spec), spec, how, print).attack_policy()
    assert [one.amount for one in outcomes] == [2, 5, 2, 5, 8, 4]
    for one in outcomes:
        assert one.nll["trial"] == one.nll["vanilla"] == one.nll["exact_retrain"]
        assert (one.undone(), one.undone("exact_retrain")) == (None, None)


def test_the_retrained_model_is_attacked_as_the_trial_is(
    tiny_study: StudySpec, tmp_path: Path
) -> None:
    """The same weights under either name must give the same curve, or no comparison is fair."""
    workspace = forgotten(tiny_study)
    workspace.policy.model.save_pretrained(tmp_path / "again")
    spec = with_model(tiny_study, exact_retrain=str(tmp_path / "again"))
    again = fresh(spec)
    run(again, config("gradient_ascent", **HARD))
    how = QUICK.model_copy(update={"attacks": ("relearn", "quantise")})
    for one in Attacker(again, spec, how, print).attack_policy():
        assert one.nll["exact_retrain"] == pytest.approx(one.nll["trial"], abs=1e-5)
        assert one.before["trial"] > one.before["vanilla"]


def test_the_share_undone_by_hand() -> None:
    before = {"trial": 5.0, "vanilla": 3.0, "exact_retrain": 4.0}
    nll = {"trial": 3.5, "vanilla": 2.0, "exact_retrain": 3.9}
    relearn = AttackOutcome("relearn", "", "forget", 20, before, nll)
    assert relearn.undone() == pytest.approx(0.75)
    assert relearn.undone("exact_retrain") == pytest.approx(0.1)
    assert relearn.undone("vanilla") is None
    other = AttackOutcome("prompts", "", "paraphrases", 0, before, nll)
    assert other.undone() == pytest.approx(0.25), "other documents: beside vanilla on the same"


def test_a_prefix_is_context_and_the_targets_stay_the_same(tiny_study: StudySpec) -> None:
    workspace = forgotten(tiny_study)
    forget = workspace.data.splits["forget"]
    found = with_prefix(tiny_study, forget, "def parse(", positions=None)
    for tokens in (found.plain, found.attacked):
        assert not tokens.target_mask.any() or tokens.prompt is not None
    predicted = [t.input_ids[:, 1:][t.target_mask] for t in (found.plain, found.attacked)]
    assert np.array_equal(*predicted)
    longer = with_prefix(tiny_study, forget, "def parse(", positions=64)
    assert longer.attacked.target_mask.sum() == forget.target_mask.sum()
    victim = victim_of(workspace)
    assert loss_on(victim, longer.plain)[0] == pytest.approx(forget_nll(workspace), abs=1e-5)
    assert loss_on(victim, longer.attacked)[0] != loss_on(victim, longer.plain)[0]
    with pytest.raises(UserError, match=r"--prefix .* leave no room in sequences of 48"):
        with_prefix(tiny_study, forget, "word " * 80, positions=None)


def test_paraphrases_have_the_fields_of_the_forget_set(
    tiny_study: StudySpec, tmp_path: Path, text_files: Path
) -> None:
    """The forget set itself in another file must give the forget set's own numbers."""
    workspace = forgotten(tiny_study)
    forget = workspace.data.splits["forget"]
    lines = (text_files / "forget.jsonl").read_text().splitlines()[:16]
    file = tmp_path / "again.jsonl"
    file.write_text("\n".join(json.dumps(json.loads(line)) for line in lines))
    found = paraphrased(tiny_study, forget, str(file))
    assert found.setting == "paraphrases (16 documents)"
    assert np.array_equal(found.attacked.input_ids, forget.input_ids)
    file.write_text("")
    with pytest.raises(UserError, match=r"--paraphrases .*again.jsonl: no documents"):
        paraphrased(tiny_study, forget, str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"attacks": ("prompts",)}, "needs a prefix"),
        ({"prefixes": ("x",)}, "add it, or remove them"),
        ({"share": 1.0}, "share"),
        ({"bits": (1,)}, "bits"),
    ],
)
def test_attacks_that_cannot_be_made_are_refused_before_a_model_is_loaded(
    content: dict[str, object], message: str
) -> None:
    from ray_unlearn.spec.strict import validated

    with pytest.raises(UserError, match=message):
        validated(AttackSpec, content, "attack")
