"""The update loop: exact against plain PyTorch, and free of any memory of earlier trials."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import COLUMNS
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.data_order import batch
from ray_unlearn.unlearn.logprobs import chunk_size
from ray_unlearn.unlearn.loop import Ended, learning_rate_at, total_norm, unlearn
from ray_unlearn.unlearn.model import load_model
from ray_unlearn.unlearn.policy import WholeModel
from ray_unlearn.unlearn.workspace import Workspace

ON_TEXTS = [n for n, method in METHODS.items() if not (method.adapters or method.other_answers)]
"""Methods that the tiny study can run; see test_inner_states.py and test_alternatives.py."""
BY_PROBABILITY = [name for name in ON_TEXTS if not name.startswith("rmu")]
REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]


def fresh(spec: StudySpec, **operated: object) -> Workspace:
    operations = spec.operations.model_copy(update=operated)
    return Workspace.open(
        spec.model, prepare(spec.data, spec.model), spec.evaluation, operations, Comm.single()
    )


@pytest.fixture
def workspace(tiny_study: StudySpec) -> Workspace:
    return fresh(tiny_study)


def config(method: str, **values: object) -> TrialConfig:
    defaults: dict = {
        "learning_rate": 3e-3,
        "steps": 4,
        "batch_size": 4,
        "evaluate_at": (2, 4),
        "seed": 5,
    }
    return TrialConfig(method=method, **(defaults | values))


def run(workspace: Workspace, config: TrialConfig) -> tuple[list[dict], Ended]:
    *rows, ended = unlearn(workspace, config)
    assert isinstance(ended, Ended)
    found = [{n: row[n] for n in REPEATABLE if n in row} for row in rows if isinstance(row, dict)]
    assert len(found) == len(rows)
    return found, ended


def weights(workspace: Workspace) -> list[torch.Tensor]:
    return [p.detach().clone() for p in workspace.policy.model.parameters()]


@pytest.mark.parametrize("method", BY_PROBABILITY)
def test_trajectory_equals_plain_pytorch(
    workspace: Workspace, tiny_study: StudySpec, method: str
) -> None:
    """The method written out again with whole logits and `F.cross_entropy`, as a reader would check
    it."""
    own = {"beta": 0.3, "gamma": 0.2, "confidence_power": 1.5, "doubt_power": 0.5}
    own |= {"w_f": 0.7, "w_r": 2.0, "logit_penalty": 4.0}
    used = {name: value for name, value in own.items() if name in METHODS[method].hyperparameters}
    trial = config(method, weight_decay=0.1, **used)
    rows, ended = run(workspace, trial)
    assert ended.status == "complete"
    model, reference = load_model(tiny_study.model), load_model(tiny_study.model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0},
        ],
        lr=3e-3,
    )
    data = workspace.data
    for update in range(1, 5):
        loss = _plain_loss(model, reference, data, trial, update)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    # AdamW turns the rounding of a near-zero gradient into a whole step: compare where the weights
    # went as a whole.
    mine, theirs, start = (
        torch.cat([p.detach().flatten() for p in group])
        for group in (weights(workspace), model.parameters(), reference.parameters())
    )
    assert (mine - theirs).norm() < 5e-3 * (theirs - start).norm()
    assert rows[-1]["update"] == 4


def _plain_loss(model, reference, data, trial: TrialConfig, update: int) -> torch.Tensor:
    method = METHODS[trial.method]

    def labelled(split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = data.splits[split]
        indices, _ = batch(trial.seed, split, update, trial.batch_size, len(tokens))
        ids = torch.from_numpy(tokens.input_ids[indices]).long()
        labels = ids[:, 1:].masked_fill(~torch.from_numpy(tokens.target_mask[indices]), -100)
        return ids, labels, torch.from_numpy(indices)

    ids, labels, indices = labelled("forget")
    real = labels != -100
    logits = model(ids).logits[:, :-1]
    forget = method.terms[0]
    if forget.loss not in ("ascent", "cross_entropy"):
        with torch.no_grad():
            before = reference(ids).logits[:, :-1]
        loss = _plain_preference(forget.loss, trial, logits, before, ids[:, 1:], real)
    elif forget.loss == "ascent":
        loss = -F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    else:
        if forget.labels == "adversarial":
            other = (
                reference(ids).logits[:, :-1].scatter(-1, ids[:, 1:, None], -torch.inf).argmax(-1)
            )
        else:
            from ray_unlearn.unlearn.methods.labels import random_labels

            _, epochs = batch(
                trial.seed, "forget", update, trial.batch_size, len(data.splits["forget"])
            )
            other = torch.stack(
                [
                    torch.from_numpy(
                        random_labels(
                            i[1:].numpy().astype(np.int32),
                            data.allowed_labels,
                            trial.seed,
                            int(s),
                            int(e),
                        )
                    )
                    for i, s, e in zip(ids, indices, epochs, strict=True)
                ]
            ).long()
            assert not (other[real] == labels[real]).any()
        loss = F.cross_entropy(logits.flatten(0, 1), other.masked_fill(~real, -100).flatten())
    if method.retain_set is None:
        return loss
    ids, labels, _ = labelled(method.retain_set)
    logits = model(ids).logits[:, :-1]
    if method.terms[1].loss == "cross_entropy":
        retain = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    else:
        real = labels != -100
        with torch.no_grad():
            target = reference(ids).logits[:, :-1][real].log_softmax(-1)
        retain = F.kl_div(
            logits[real].log_softmax(-1), target, log_target=True, reduction="batchmean"
        )
    return trial.w_f * loss + trial.w_r * retain


def _plain_preference(loss: str, trial: TrialConfig, logits, before, ids, real) -> torch.Tensor:
    """Losses that are no sum over tokens, a row for each document."""

    def chosen(of: torch.Tensor) -> torch.Tensor:
        return of.log_softmax(-1).gather(-1, ids[..., None])[..., 0].masked_fill(~real, 0.0)

    if loss == "undial":
        penalty = trial.logit_penalty * F.one_hot(ids, logits.shape[-1])
        soft = (before - penalty).softmax(-1)
        return F.cross_entropy(logits[real], soft[real])
    logp, own = chosen(logits), trial.model_extra or {}
    beta = own.get("beta", math.nan)
    if loss == "npo":
        odds = (beta * (logp.sum(1) - chosen(before).sum(1))).exp()
        return 2 / beta * torch.log1p(odds).mean()
    if loss == "simnpo":
        return -2 / beta * F.logsigmoid(-beta * logp.sum(1) / real.sum(1) - own["gamma"]).mean()
    p = logp.detach().exp()
    weight = p ** own["confidence_power"]
    if loss == "saturation_ascent":
        weight = weight * (1 - p) ** own["doubt_power"]
    return (weight * logp)[real].mean()


@pytest.mark.parametrize("method", ON_TEXTS)
def test_used_workspace_equals_fresh_one_bit_for_bit(
    tiny_study: StudySpec, workspace: Workspace, method: str
) -> None:
    """After a normal, a diverged and an abandoned trial, of this and of another method."""
    trial = config(method)
    expected = run(fresh(tiny_study), trial)
    expected_weights = None
    for before in (
        lambda: run(workspace, config(method, seed=9, learning_rate=1e-2)),
        lambda: run(workspace, config("ascent_descent_general", learning_rate=1e30)),
        lambda: next(unlearn(workspace, config("random_labels"))),
        lambda: next(unlearn(workspace, config(method, learning_rate=0.5))),
    ):
        before()
        assert run(workspace, trial) == expected
        now = weights(workspace)
        expected_weights = expected_weights or now
        assert all(torch.equal(a, b) for a, b in zip(now, expected_weights, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_of_memory_in_a_first_step_costs_no_later_trial(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Half-made states of the optimizer were handed on: the lane's next trials failed."""
    model = tiny_study.model.model_copy(update={"dtype": dtype})
    spec = tiny_study.model_copy(update={"model": model})
    workspace, trial, made = fresh(spec), config("gradient_ascent"), []
    zeros_like = torch.zeros_like

    def short_of_memory(*given: object, **named: object) -> torch.Tensor:
        made.append(1)
        if len(made) == 4:
            raise torch.OutOfMemoryError("no room for a moment")
        return zeros_like(*given, **named)  # type: ignore[call-overload]

    hook = register_optimizer_step_pre_hook(
        lambda *given: monkeypatch.setattr(torch, "zeros_like", short_of_memory)
    )
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        run(workspace, trial)
    hook.remove()
    monkeypatch.undo()
    assert run(workspace, trial) == run(fresh(spec), trial)


def test_the_gradient_norm_of_bfloat16_weights_is_no_rounded_one() -> None:
    """Clipping at 1.0 left 1.003: bfloat16 has no number between 1,000 and 1,004."""
    gradients = [torch.full((1001, 1001), 1.0, dtype=torch.bfloat16), torch.zeros(3).bfloat16()]
    norm = total_norm(gradients)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(1001.0, rel=1e-6)


def test_diverged_trial_keeps_its_finite_rows(workspace: Workspace) -> None:
    rows, ended = run(workspace, config("gradient_ascent", learning_rate=1e30, evaluate_at=(4,)))
    assert ended.status == "diverged"
    assert "update" in ended.reason
    assert rows == []
    for parameter in workspace.policy.model.parameters():
        parameter.data.fill_(math.nan)
    rows, ended = run(workspace, config("gradient_ascent"))
    assert ended.status == "complete"
    assert len(rows) == 2


def test_row_at_update_t_is_the_trial_with_t_steps(workspace: Workspace) -> None:
    """Constant learning rate after warm-up: steps are free."""
    longer, _ = run(workspace, config("ascent_kl_general", warmup_steps=2))
    shorter, _ = run(
        workspace, config("ascent_kl_general", warmup_steps=2, steps=2, evaluate_at=(2,))
    )
    assert longer[0] == shorter[0]


def test_evaluations_do_not_change_the_trajectory(workspace: Workspace) -> None:
    often, _ = run(workspace, config("random_labels", evaluate_at=(1, 2, 3, 4)))
    seldom, _ = run(workspace, config("random_labels", evaluate_at=(4,)))
    assert often[-1] == seldom[-1]


@pytest.mark.parametrize(
    "method",
    ["ascent_descent_in_distribution", "ascent_kl_general", "random_labels", "npo"],
)
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_give_the_same_trajectory(
    tiny_study: StudySpec, workspace: Workspace, method: str, size: int
) -> None:
    whole, _ = run(workspace, config(method))
    parts, _ = run(fresh(tiny_study, micro_batch_size=size), config(method))
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


def test_methods_with_one_seed_consume_equal_forget_tokens(workspace: Workspace) -> None:
    tokens = {
        tuple(row["forget_tokens"] for row in run(workspace, config(name))[0]) for name in ON_TEXTS
    }
    assert len(tokens) == 1


def test_padding_counts_nowhere(tiny_study: StudySpec, workspace: Workspace) -> None:
    """Other ids in the padding change no loss, no metric and no weight, for any method."""
    other = fresh(tiny_study)
    for tokens in other.data.splits.values():
        tokens.input_ids[tokens.document < 0] = 17
    for method in ON_TEXTS:
        assert run(workspace, config(method)) == run(other, config(method)), method


def test_adversarial_labels_are_the_best_wrong_token_of_the_same_position(
    tiny_study: StudySpec, workspace: Workspace
) -> None:
    labels = workspace.adversarial_labels
    model = load_model(tiny_study.model)
    tokens = workspace.data.splits["forget"]
    for index in (0, 7):
        logits = model(torch.from_numpy(tokens.input_ids[index])[None].long()).logits[0]
        for position in np.flatnonzero(tokens.target_mask[index])[:20]:
            ranked = logits[position].argsort(descending=True).tolist()
            truth = tokens.input_ids[index, position + 1]
            assert labels[index, position] == next(token for token in ranked if token != truth)


def test_reference_weights_never_change(workspace: Workspace) -> None:
    assert isinstance(workspace.policy, WholeModel)
    before = copy.deepcopy([p.detach() for p in workspace.policy.vanilla.parameters()])
    run(workspace, config("ascent_kl_in_distribution", learning_rate=0.1))
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, workspace.policy.vanilla.parameters(), strict=True)
    )


class _Logits(TorchDispatchMode):
    """Notes the most rows of any tensor made that is as wide as the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.shape[-1:] == (300,) and made.shape != (32, 300):
            self.rows = max(self.rows, made.numel() // 300)
        return made


@pytest.mark.parametrize("head", ["fused", "plain"])
def test_logits_are_never_whole(
    tiny_study: StudySpec, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """No logits, in training or evaluation, are of more positions than one chunk."""
    monkeypatch.setattr("ray_unlearn.unlearn.logprobs.CHUNK_ELEMENTS", 300 * 20)
    monkeypatch.setattr("ray_unlearn.unlearn.logprobs.SMALLEST_CHUNK", 8)
    workspace = fresh(tiny_study, head=head)
    with _Logits() as seen:
        _, ended = run(workspace, config("ascent_kl_general"))
    assert ended.status == "complete"
    assert seen.rows == chunk_size(300, workspace.device) == 20


def test_chunks_do_not_change_results(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(workspace, config("ascent_kl_general"))
    monkeypatch.setattr("ray_unlearn.unlearn.logprobs.CHUNK_ELEMENTS", 300 * 7)
    monkeypatch.setattr("ray_unlearn.unlearn.logprobs.SMALLEST_CHUNK", 1)
    chunked, _ = run(workspace, config("ascent_kl_general"))
    for a, b in zip(whole, chunked, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_equal_those_of_transformers(schedule: str) -> None:
    trial = config(
        "gradient_ascent",
        steps=20,
        warmup_steps=3,
        schedule=schedule,
        learning_rate=0.5,
        evaluate_at=(20,),
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    maker = {
        "linear": get_linear_schedule_with_warmup,
        "cosine": get_cosine_schedule_with_warmup,
    }.get(schedule)
    after_warm_up = []
    if maker is not None:
        scheduler = maker(optimizer, num_warmup_steps=3, num_training_steps=20)
        for _ in range(20):
            after_warm_up.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    found = [learning_rate_at(trial, update) for update in range(1, 21)]
    # Ours never makes an update at rate 0.
    assert found[:3] == pytest.approx([0.5 / 3, 1.0 / 3, 0.5])
    assert found[3:] == pytest.approx(after_warm_up[3:] if maker else [0.5] * 17)


def test_weight_decay_pulls_matrices_towards_zero(workspace: Workspace) -> None:
    run(workspace, config("random_labels", learning_rate=1e-3, weight_decay=100.0))
    decayed = weights(workspace)
    run(workspace, config("random_labels", learning_rate=1e-3))
    for with_decay, without in zip(decayed, weights(workspace), strict=True):
        if with_decay.ndim > 1:
            assert with_decay.norm() < 0.9 * without.norm()
