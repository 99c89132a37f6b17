"""Workers that each hold a part of the model (gloo): the trajectory of one worker that holds it
all."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from test_checkpoint import Wish
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ray_unlearn.spec.method_registry import METHODS
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.schema import COLUMNS, Row
from ray_unlearn.unlearn import reference
from ray_unlearn.unlearn.checkpoint import save_weights
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.logit_map import CappedHead, soft_capped
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.optimizer import local, make_optimizer, state_of
from ray_unlearn.unlearn.sharded_checkpoint import ShardedCheckpoints, complete_sets, part_file
from ray_unlearn.unlearn.sharded_model import whole_head
from ray_unlearn.unlearn.workspace import Workspace

REPEATABLE = [name for name, column in COLUMNS.items() if column.repeatable]


class Case(NamedTuple):
    """What is run, by one worker and by several."""

    method: str
    model: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    batch_size: int = 5
    cache_bytes: int = 2**30
    lower: bool = False
    """Some arithmetic in bfloat16: compared are losses, since ranks of near neighbours may
    change."""


KL, DESCENT = "ascent_kl_in_distribution", "ascent_descent_general"
CASES = {
    "ascent": Case("gradient_ascent"),
    "random labels": Case("random_labels"),
    "adversarial labels": Case("adversarial_samples", operations={"micro_batch_size": 1}),
    "descent": Case(DESCENT),
    "kl": Case(KL),
    "single log-probabilities": Case("npo_descent_in_distribution"),
    "few layers": Case("rmu", operations={"micro_batch_size": 2}),
    "micro-batches": Case(KL, operations={"micro_batch_size": 2}),
    "P_0 not cached": Case(KL, operations={"micro_batch_size": 1}, cache_bytes=0),
    "checkpointed": Case(KL, operations={"activation_checkpointing": True}),
    "plain head": Case(KL, operations={"head": "plain", "micro_batch_size": 2}),
    "fewer sequences than workers": Case(DESCENT, batch_size=1),
    "autocast": Case(DESCENT, model={"autocast": "bfloat16"}, lower=True),
    "bfloat16": Case(DESCENT, model={"dtype": "bfloat16", "rounding": "exact"}, lower=True),
}  # fmt: skip
"""Batches of 5 and 4 do not divide evenly: a rank with less to do must make idle calls, and means
of means would show."""
FOR_FOUR = (
    "ascent",
    "random labels",
    "descent",
    "kl",
    "P_0 not cached",
    "fewer sequences than workers",
)


def opened(spec: StudySpec, data: StudyData, comm: Comm, case: Case, **operated: Any) -> Workspace:
    model = spec.model.model_copy(update=case.model)
    operations = spec.operations.model_copy(update=case.operations | operated)
    return Workspace.open(model, data, spec.evaluation, operations, comm)


def config(case: Case) -> TrialConfig:
    mixed = {"retain_ratio": 0.8} if METHODS[case.method].mixed else {}
    return TrialConfig(
        learning_rate=1e-3, steps=3, method=case.method, batch_size=case.batch_size,
        evaluate_at=(1, 3), seed=3, **mixed,
    )  # fmt: skip


def run(workspace: Workspace, case: Case) -> list[Row]:
    reference.CACHE_BYTES = case.cache_bytes
    *rows, ended = unlearn(workspace, config(case))
    assert isinstance(ended, Ended)
    assert ended.status == "complete"
    return rows  # type: ignore[return-value]


def columns(row: Row | Ended) -> dict[str, Any]:
    assert isinstance(row, dict)
    return {name: row[name] for name in REPEATABLE if name in row}


def worker(rank: int, world: int, folder: Path, spec: StudySpec, data: StudyData) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    comm, rows = Comm.distributed(), {}
    for name in CASES if world == 2 else FOR_FOUR:
        case = CASES[name]
        workspace = opened(spec, data, comm, case, parallel="shard")
        rows[name] = [columns(row) for row in run(workspace, case)]
        if name == "ascent":
            kept = workspace.policy.weights()
            assert bool(kept) == (rank == 0)
            if rank == 0:
                save_weights(kept, folder / "kept.safetensors")
            again = [columns(row) for row in run(workspace, case)]
            assert again == rows[name], "a used lane is not a fresh one"
    numbers = numbers_held(
        opened(
            spec,
            data,
            comm,
            Case("gradient_ascent", {"dtype": "bfloat16", "rounding": "exact"}),
            parallel="shard",
        )
    )
    (folder / f"rank{rank}.json").write_text(json.dumps({"rows": rows, "numbers": numbers}))
    if world == 2:
        it_goes_on(
            spec,
            data,
            comm,
            folder,
            {},
            damages=("torn", "gone", "other trial", "ahead of a lost row"),
        )
        it_goes_on(spec, data, comm, folder, {"dtype": "bfloat16", "rounding": "exact"})
        it_goes_on(spec, data, comm, folder, {"dtype": "bfloat16", "rounding": "stochastic"})
        noise_differs(spec, data, comm)
    dist.destroy_process_group()


def numbers_held(workspace: Workspace) -> dict[str, int]:
    """By this rank: weights, P_0's weights, optimizer states."""
    optimizer = make_optimizer(workspace.parameters, config(CASES["ascent"]), "exact")
    for p in workspace.parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    states = [
        t
        for state in state_of(optimizer)["state"].values()
        for t in state.values()
        if isinstance(t, torch.Tensor) and t.ndim
    ]
    with workspace.policy.reference() as reference:
        vanilla = sum(local(p).numel() for p in reference.parameters())
    weights = sum(local(p).numel() for p in workspace.parameters)
    return {"weights": weights, "vanilla": vanilla, "states": sum(t.numel() for t in states)}


def it_goes_on(
    spec: StudySpec,
    data: StudyData,
    comm: Comm,
    folder: Path,
    model: dict[str, Any],
    damages: tuple[str, ...] = (),
) -> None:
    """From a checkpoint bit for bit; from none when a part of it is torn, gone, or of another
    number of workers."""
    case = Case(KL, model)
    path = folder / "trials" / "0000" / "last.pt"

    def fresh() -> Workspace:
        return opened(spec, data, comm, case, parallel="shard")

    def checkpointer(wish: Wish, known: tuple[int, ...] = (1,)) -> ShardedCheckpoints:
        return ShardedCheckpoints(
            comm, path, None, frozenset(known), lambda update: update == wish.at,
            wish.restored.append, wish.saved.append, wish.failed.append, writes=comm.rank == 0,
        )  # fmt: skip

    def weights(workspace: Workspace) -> list[torch.Tensor]:
        return [local(p).clone() for p in workspace.parameters]

    first = fresh()
    expected = [columns(row) for row in run(first, case)]
    for at in (1, 2):  # only rank 0 is asked; the older set goes
        wish = Wish(at if comm.rank == 0 else None)
        trial = unlearn(fresh(), config(case), checkpointer(wish, ()))
        next(trial)
        next(trial)
        trial.close()  # type: ignore[attr-defined]
        assert (wish.saved, wish.failed) == ([at] if comm.rank == 0 else [], [])
        dist.barrier()
        assert sorted(p.name for p in path.parent.iterdir()) == [
            f"last-{at}.rank{r}of2.pt" for r in (0, 1)
        ]
    own = part_file(path, 2, comm.rank, 2)
    content = own.read_bytes()
    assert len(content) < 0.5 * 12 * sum(p.numel() for p in first.parameters) + 40_000, (
        "half of all states"
    )
    second, wish = fresh(), Wish()
    *rows, _ = unlearn(second, config(case), checkpointer(wish))
    assert wish.restored == [2]
    assert [columns(row) for row in rows] == expected[1:]
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    for damage in damages:
        if comm.rank == 1 and damage == "torn":
            own.write_bytes(content[:-1000])
        elif comm.rank == 1 and damage == "gone":
            own.unlink()
        elif comm.rank == 1:
            own.write_bytes(content)
        dist.barrier()
        trial = (
            config(case).model_copy(update={"seed": 4}) if damage == "other trial" else config(case)
        )
        wish = Wish()
        known = () if damage == "ahead of a lost row" else (1,)
        row = columns(next(unlearn(second, trial, checkpointer(wish, known))))
        assert wish.restored == [], damage
        assert row["update"] == (3 if known else 1)
        assert row in expected or damage == "other trial"
        dist.barrier()
    assert complete_sets(path, 3) == []
    dist.barrier()
    own.unlink()


def noise_differs(spec: StudySpec, data: StudyData, comm: Comm) -> None:
    """Stochastic rounding: two ranks with equal parts round them differently, and each the same
    again."""
    case = Case("gradient_ascent", {"dtype": "bfloat16", "rounding": "stochastic"})
    workspace = opened(spec, data, comm, case, parallel="shard")

    def stepped() -> torch.Tensor:
        optimizer = make_optimizer(workspace.parameters, config(case), "stochastic")
        p = max(workspace.parameters, key=lambda p: p.numel())
        with torch.no_grad():
            local(p).fill_(1.0)
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        return local(p).float().clone()

    one, two = stepped(), stepped()
    assert torch.equal(one, two)
    assert len(one.unique()) == 2, "up or down"
    parts = comm.gather(one)
    if parts is not None:
        assert parts[0].shape == parts[1].shape
        assert not torch.equal(*parts)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """Filled by the first test that needs it: what one worker gives."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_shards_do_not_change_the_trajectory(
    tiny_study: StudySpec, tmp_path: Path, world: int, expected: dict[str, Any]
) -> None:
    from safetensors.torch import load_file

    data = prepare(tiny_study.data, tiny_study.model)
    if not expected:
        for name, case in CASES.items():
            workspace = opened(tiny_study, data, Comm.single(), case, parallel="shard")
            assert not workspace.sharded, "one worker holds all there is"
            expected[name] = [columns(row) for row in run(workspace, case)]
            if name == "ascent":
                expected["kept"] = {n: t.clone() for n, t in workspace.policy.weights().items()}
                workspace.reset()
                expected["start"] = {n: t.clone() for n, t in workspace.policy.weights().items()}
    run_ranks(worker, (world, tmp_path, tiny_study, data), world)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]
    for name in ranks[0]["rows"]:
        case = CASES[name]
        assert all(rank["rows"][name] == ranks[0]["rows"][name] for rank in ranks), name
        for found, row in zip(ranks[0]["rows"][name], expected[name], strict=True):
            compared = [
                n
                for n in row
                if not case.lower or n.endswith(("_nll", "_loss", "_norm", "_tokens"))
            ]
            for n in compared:
                assert found[n] == pytest.approx(
                    row[n], rel=0.01 if case.lower else 1e-3, abs=1e-4
                ), (name, n)
    kept = load_file(tmp_path / "kept.safetensors")
    start, theirs = expected["start"], expected["kept"]
    assert kept.keys() == theirs.keys()
    moved = sum(float((theirs[n] - start[n]).square().sum()) for n in start)
    apart = sum(float((theirs[n] - kept[n]).square().sum()) for n in start)
    assert apart < 1e-4 * moved
    numbers = sum(t.numel() for t in start.values())
    for rank in ranks:
        held = rank["numbers"]
        assert held["weights"] == held["vanilla"] == numbers / world
        assert held["states"] == 3 * held["weights"], "two moments and the low bits of bfloat16"


def test_adapters_are_not_sharded(tiny_study: StudySpec) -> None:
    content = tiny_study.model_dump(mode="json")
    content["model"]["lora"] = {"rank": 4}
    content["operations"] |= {"parallel": "shard", "workers_per_lane": 2}
    with pytest.raises(
        ValueError, match=r"operations\.parallel: `shard` is for whole models; use `replicate`"
    ):
        StudySpec.model_validate(content)


def _capped_head(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=1)
    torch.manual_seed(0)
    plain, hidden = nn.Linear(8, 20), torch.randn(5, 8)
    expected = soft_capped(plain(hidden), 0.4)
    fully_shard(plain, mesh=init_device_mesh("cpu", (1,)))
    found = whole_head(CappedHead(plain, 0.4))
    assert not isinstance(found.weight, DTensor)
    assert torch.allclose(found(hidden), expected)
    dist.destroy_process_group()


def test_a_gathered_head_caps_its_logits_as_the_sharded_one_did(tmp_path: Path) -> None:
    run_ranks(_capped_head, (str(tmp_path / "store"),))
