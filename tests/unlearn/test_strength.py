"""Strength: a model between vanilla and trained weights, and a trial that does not notice that it
was looked at."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from test_checkpoint import Wish, columns
from test_loop import config, fresh, run, weights

from ray_unlearn.spec.model_spec import LoraSpec
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import Row
from ray_unlearn.store.target import TARGET_TOLERANCE, ForgetTarget
from ray_unlearn.unlearn.calibration import Calibration, calibration_of, most_calibrated
from ray_unlearn.unlearn.checkpoint import save_weights
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.evaluate import evaluate, forget_nll
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.optimizer import local
from ray_unlearn.unlearn.policy import load_policy
from ray_unlearn.unlearn.strength import put_back, trained_weights
from ray_unlearn.unlearn.target_strength import Calibrated, OutOfReach, strength_for
from ray_unlearn.unlearn.workspace import Workspace

MODELS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16", "rounding": "stochastic"},
    "residual bits": {"dtype": "bfloat16", "rounding": "exact"},
    "LoRA": {"lora": LoraSpec(rank=2, alpha=4, targets="all-linear")},
}


def opened(spec: StudySpec, model: str = "float32") -> Workspace:
    return fresh(spec.model_copy(update={"model": spec.model.model_copy(update=MODELS[model])}))


def trial(**values: object) -> TrialConfig:
    """Forgets 2 nats and more in six updates."""
    given: dict = {"steps": 6, "evaluate_at": (2, 4, 6), "learning_rate": 1e-2}
    return config("gradient_ascent", **(given | values))


def target(workspace: Workspace, rise: float = 0.5) -> ForgetTarget:
    workspace.reset()
    vanilla = evaluate(workspace)["forget_nll"]
    return ForgetTarget(vanilla, vanilla + rise)


def calibrated_run(workspace: Workspace, config: TrialConfig, most: int = 3) -> list[Row]:
    calibration = Calibration(target(workspace), 1, config.steps, most)
    *rows, ended = unlearn(workspace, config, calibration=calibration)
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    return rows  # type: ignore[return-value]


def places(rows: list[Row]) -> list[tuple[int, bool]]:
    return [(row["update"], row["strength"] == 1) for row in rows]


def test_weights_lie_on_the_line_through_vanilla_and_trained_ones(tiny_study: StudySpec) -> None:
    workspace = opened(tiny_study)
    workspace.reset()
    vanilla = weights(workspace)
    run(workspace, trial())
    reached, policy = weights(workspace), workspace.policy
    kept = trained_weights(policy.parameters)
    for strength in (0.0, 0.25, 1.0, 2.0):
        policy.mix(kept, strength)
        for mixed, start, end in zip(weights(workspace), vanilla, reached, strict=True):
            by_hand = start.double() + strength * (end.double() - start.double())
            assert torch.allclose(mixed.double(), by_hand, rtol=0, atol=1e-6)
            if strength in (0.0, 1.0):
                assert torch.equal(mixed, (start, end)[int(strength)])
    put_back(policy.parameters, kept)
    assert all(map(torch.equal, weights(workspace), reached))


def test_bfloat16_weights_are_right_on_average_and_move_one_way(tiny_study: StudySpec) -> None:
    """Rounded to nearest, a change of one spacing would come whole or not at all."""
    workspace = opened(tiny_study, "bfloat16")
    workspace.reset()
    vanilla = torch.cat([w.flatten() for w in weights(workspace)]).double()
    run(workspace, trial(learning_rate=1e-3))
    kept = trained_weights(workspace.policy.parameters)
    change = torch.cat([w.flatten() for w in weights(workspace)]).double() - vanilla
    share, before = [], vanilla
    for strength in (0.0, 0.3, 0.6, 1.0):
        workspace.policy.mix(kept, strength)
        mixed = torch.cat([w.flatten() for w in weights(workspace)]).double()
        share.append(((mixed - vanilla) * change.sign()).sum() / change.abs().sum())
        assert ((mixed - before) * change.sign() >= 0).all()
        before = mixed
    assert torch.stack(share).tolist() == pytest.approx([0.0, 0.3, 0.6, 1.0], abs=0.01)


def test_adapters_are_scaled_once_per_product(tiny_study: StudySpec) -> None:
    """A change of W is B A: at half the strength it is half of it, not a quarter."""
    workspace = opened(tiny_study, "LoRA")
    run(workspace, trial())
    policy = workspace.policy
    name = "model.layers.0.self_attn.q_proj.weight"
    vanilla = dict(fresh(tiny_study).policy.model.named_parameters())[name]
    whole = dict(policy.merged().named_parameters())[name] - vanilla  # type: ignore[union-attr]
    policy.mix(trained_weights(policy.parameters), 0.5)
    half = dict(policy.merged().named_parameters())[name] - vanilla  # type: ignore[union-attr]
    assert whole.abs().max() > 1e-3
    assert torch.allclose(half, whole / 2, atol=1e-6)


def test_a_pass_over_the_forget_set_says_what_an_evaluation_says(tiny_study: StudySpec) -> None:
    workspace = opened(tiny_study)
    run(workspace, trial())
    assert forget_nll(workspace) == pytest.approx(evaluate(workspace)["forget_nll"], abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_trial_does_not_notice_that_it_was_calibrated(tiny_study: StudySpec, model: str) -> None:
    """Rows as trained and last weights are the same bit for bit, and calibrated rows meet the
    target."""
    workspace = opened(tiny_study, model)
    expected, _ = run(workspace, trial())
    reached, wanted = weights(workspace), target(workspace).nll
    rows = calibrated_run(workspace, trial())
    assert [columns(row) for row in rows if row["strength"] == 1] == expected
    assert all(map(torch.equal, weights(workspace), reached))
    calibrated = [row for row in rows if row["strength"] != 1]
    assert calibrated
    for row in calibrated:
        assert 0 < row["strength"] <= 2
        assert row["forget_nll"] == pytest.approx(wanted, abs=TARGET_TOLERANCE + 1e-5)


def test_while_a_calibrated_row_is_out_the_policy_is_its_model(
    tiny_study: StudySpec, tmp_path: Path
) -> None:
    """Its weights are saved then; and run again to the update and mixed they are the same."""
    workspace = opened(tiny_study)
    calibration = Calibration(target(workspace), 1, 6)
    for row in unlearn(workspace, trial(), calibration=calibration):
        if not isinstance(row, Ended) and row["strength"] != 1:
            break
    assert isinstance(row, dict)
    save_weights(workspace.policy.weights(), tmp_path / "mixed.safetensors")
    again = opened(tiny_study)
    load_policy(again.policy, tmp_path / "mixed.safetensors")
    metrics = evaluate(again)
    assert {name: row[name] for name in metrics} == metrics
    kept = weights(again)
    run(again, trial(steps=row["update"], evaluate_at=(row["update"],)))
    again.policy.mix(trained_weights(again.policy.parameters), row["strength"])
    assert all(map(torch.equal, weights(again), kept))


@pytest.mark.parametrize("at", [2, 3, 4])
def test_it_goes_on_between_calibrated_rows_bit_for_bit(
    tiny_study: StudySpec, tmp_path: Path, at: int
) -> None:
    undisturbed, path = opened(tiny_study), tmp_path / "0000" / "last.pt"
    expected = calibrated_run(undisturbed, trial())
    first, wish, before = opened(tiny_study), Wish(at), []
    goal = target(first)
    for row in unlearn(first, trial(), wish.checkpointer(path), Calibration(goal, 1, 6)):
        assert not isinstance(row, Ended)
        if row["update"] > at:
            break
        before.append(row)
    assert wish.saved == [at]
    second, wish = opened(tiny_study), Wish()
    known = [(row["update"], row["strength"], row["forget_nll"]) for row in before]
    trained = tuple(update for update, strength, _ in known if strength == 1)
    calibration = Calibration(
        goal,
        1,
        6,
        forget_nlls={update: nll for update, strength, nll in known if strength == 1},
        known=(update for update, strength, _ in known if strength != 1),
    )
    *after, _ = unlearn(second, trial(), wish.checkpointer(path, trained), calibration)
    assert wish.restored == [at]
    assert [columns(row) for row in [*before, *after]] == [columns(row) for row in expected]  # type: ignore[arg-type]
    assert all(map(torch.equal, weights(second), weights(undisturbed)))


def test_a_row_cut_off_before_its_calibrated_one_gets_it_later(tiny_study: StudySpec) -> None:
    """The worker died between the two rows of an update: only the second is missing."""
    workspace = opened(tiny_study)
    expected = calibrated_run(workspace, trial())
    at = next(row["update"] for row in expected if row["strength"] != 1)
    known = [row for row in expected if row["update"] <= at and row["strength"] == 1]
    calibration = Calibration(
        target(workspace), 1, 6, forget_nlls={row["update"]: row["forget_nll"] for row in known}
    )
    wish = Wish().checkpointer(Path("/nowhere/last.pt"), tuple(row["update"] for row in known))
    *rows, _ = unlearn(workspace, trial(), wish, calibration)
    missing = [columns(row) for row in expected if row not in known]
    assert [columns(row) for row in rows] == missing  # type: ignore[arg-type]


def test_a_checkpoint_beyond_a_lost_calibrated_row_is_not_used(
    tiny_study: StudySpec, tmp_path: Path
) -> None:
    """`verify --repair` may have set it aside: it would be missing for good."""
    workspace, wish = opened(tiny_study), Wish(5)
    goal, path = target(workspace), tmp_path / "0000" / "last.pt"
    for row in unlearn(workspace, trial(), wish.checkpointer(path), Calibration(goal, 1, 6)):
        if not isinstance(row, Ended) and row["update"] > 5:
            break
    wish = Wish()
    trained = {2: 3.0, 4: 9.0}
    list(
        unlearn(
            workspace,
            trial(),
            wish.checkpointer(path, (2, 4)),
            Calibration(goal, 1, 6, forget_nlls=trained),
        )
    )
    assert wish.restored == []


WANTED = ForgetTarget(2.0, 3.0)


@pytest.mark.parametrize(
    ("most", "nlls", "calibrated"),
    [
        (3, (2.1, 2.6, 2.8, 3.5, 4.0), [2, 4, 5]),
        (2, (2.1, 2.6, 2.8, 3.5, 4.0), [4, 5]),
        (1, (2.1, 2.6, 2.8, 3.5, 4.0), [5]),
        (3, (9.0, 2.6, 2.8, 3.5, 4.0), [1, 5]),
        (3, (2.1, 2.2, 2.3, 2.4, 2.4), [5]),
        (3, (1.9, 2.6, 2.4, 2.6, 3.1), [2, 5]),
    ],
)
def test_few_states_are_calibrated_the_last_and_those_at_the_target(
    most: int, nlls: tuple[float, ...], calibrated: list[int]
) -> None:
    calibration = Calibration(WANTED, 1, 5, most)
    found = []
    for update, nll in enumerate(nlls, start=1):
        calibration.take({"update": update, "forget_nll": nll})
        if calibration.wants(update):
            found.append(update)
    assert found == calibrated


def test_rows_that_cannot_be_deployed_are_not_calibrated() -> None:
    calibration = Calibration(WANTED, 3, 5)
    for update, nll in ((1, 3.2), (2, 3.3), (3, 3.4)):
        calibration.take({"update": update, "forget_nll": nll})
        assert calibration.wants(update) == (update == 3)


def test_what_a_trial_may_calibrate_follows_from_its_length(tiny_study: StudySpec) -> None:
    workspace = opened(tiny_study)
    counts = [
        most_calibrated(workspace, trial(steps=steps, evaluate_at=(steps,)))
        for steps in (1, 200, 2000)
    ]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] == 3
    known = [(2, 1.0, 2.5), (2, 0.5, 2.4)]
    calibration = calibration_of(workspace, trial(), 1, WANTED, known)
    assert (calibration.known, calibration.trained_nll(2)) == ((2,), 2.5)


CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda a: 2 + 1.7 * a,
    "quadratic": lambda a: 2 + 4 * a**2,
    "steep": lambda a: 2 + 60 * a**6 / (0.1 + a**6),
    "exploding": lambda a: 2 + math.exp(min(9 * a, 700)) - 1,
    "barely reached by extrapolation": lambda a: 2 + 0.26 * a**2,
    "falls first": lambda a: 2 + 3 * a * (a - 0.3),
    "not finite": lambda a: 2 + 1.5 * a if a < 0.8 else math.nan,
}  # fmt: skip


@pytest.mark.parametrize("curve", CURVES)
def test_the_strength_is_found_within_seven_passes(curve: str) -> None:
    nll_at = CURVES[curve]
    found = strength_for(nll_at, nll_at(1.0), WANTED)
    assert isinstance(found, Calibrated)
    assert 0 < found.strength <= 2
    assert found.passes <= 7
    assert nll_at(found.strength) == pytest.approx(3.0, abs=TARGET_TOLERANCE)


def test_on_random_curves_it_is_found_whenever_it_is_there() -> None:
    """Sums of two powers of the strength, over three orders of magnitude."""
    random, passes = np.random.default_rng(0), []
    for _ in range(500):
        (c, d), (p, q) = 10 ** random.uniform(-1.5, 1.5, 2), random.uniform(0.7, 6, 2)

        def nll_at(a: float, c: float = c, d: float = d, p: float = p, q: float = q) -> float:
            return float(2 + c * a**p + d * a**q)

        found = strength_for(nll_at, nll_at(1.0), WANTED)
        assert isinstance(found, Calibrated) == (nll_at(2.0) >= 3 - TARGET_TOLERANCE)
        passes.append(found.passes)
    assert np.mean(passes) < 3


@pytest.mark.parametrize(
    ("nll_at", "goal", "why", "passes"),
    [
        (lambda a: 2 + 0.2 * a, WANTED, "not reached at strength 2", 1),
        (lambda a: 2 - 0.2 * a, WANTED, "not reached at strength 2", 1),
        (lambda a: 4 + a, ForgetTarget(4.0, 3.0), "the vanilla model meets", 0),
        (lambda a: 2.0 if a < 0.5 else 4.0, WANTED, "not met to 0.005", 7),
    ],
)
def test_what_cannot_be_met_is_said_and_not_invented(
    nll_at: Callable[[float], float], goal: ForgetTarget, why: str, passes: int
) -> None:
    found = strength_for(nll_at, nll_at(1.0), goal)
    assert isinstance(found, OutOfReach)
    assert why in found.reason
    assert found.passes == passes


def test_a_state_on_the_target_needs_no_pass_and_no_second_row(tiny_study: StudySpec) -> None:
    assert strength_for(lambda a: math.nan, 3.004, WANTED) == Calibrated(1.0, 0)
    workspace = opened(tiny_study)
    [row], _ = run(workspace, trial(steps=2, evaluate_at=(2,)))
    goal = ForgetTarget(row["forget_nll"] - 1, row["forget_nll"])
    *rows, _ = unlearn(
        workspace, trial(steps=2, evaluate_at=(2,)), calibration=Calibration(goal, 1, 2)
    )
    assert places(rows) == [(2, True)]  # type: ignore[arg-type]


def worker(rank: int, world: int, folder: Path, spec: StudySpec, data: StudyData) -> None:
    """One of several that each hold a part of the model."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    operations = spec.operations.model_copy(update={"parallel": "shard"})
    found = {}
    for name in ("float32", "bfloat16"):
        model = spec.model.model_copy(update=MODELS[name])
        workspace = Workspace.open(model, data, spec.evaluation, operations, Comm.distributed())
        plain, _ = run(workspace, trial())
        reached = [local(p).clone() for p in workspace.parameters]
        rows = calibrated_run(workspace, trial())
        assert all(
            torch.equal(local(p), kept)
            for p, kept in zip(workspace.parameters, reached, strict=True)
        )
        assert [columns(row) for row in rows if row["strength"] == 1] == plain
        found[name] = [columns(row) for row in rows]
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_each_worker_mixes_its_own_part(tiny_study: StudySpec, tmp_path: Path) -> None:
    """All give the same rows, which are those of one worker."""
    data = prepare(tiny_study.data, tiny_study.model)
    run_ranks(worker, (2, tmp_path, tiny_study, data), 2)
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert one == two
    expected = calibrated_run(opened(tiny_study), trial())
    assert places(one["float32"]) == places(expected)
    for found, row in zip(one["float32"], expected, strict=True):
        assert found["strength"] == pytest.approx(row["strength"], rel=0.01)
        assert found["forget_nll"] == pytest.approx(row["forget_nll"], rel=0.01)
    wanted = target(opened(tiny_study, "bfloat16")).nll
    mixed = [row for row in one["bfloat16"] if row["strength"] != 1]
    assert mixed
    assert all(
        row["forget_nll"] == pytest.approx(wanted, abs=2 * TARGET_TOLERANCE) for row in mixed
    )
