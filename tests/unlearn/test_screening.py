"""Screening: a row that cannot be the best is measured on a part of the documents, and no other."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from test_loop import config, fresh, run, weights

from ray_unlearn.spec.score_weights import ScoreWeights
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import HALVED_SETS, HALVES, Metrics
from ray_unlearn.store.study_columns import MEASURED_SHARE
from ray_unlearn.unlearn.calibration import Calibration
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.data import EVALUATED, StudyData, prepare
from ray_unlearn.unlearn.evaluate import evaluate, measured_vanilla
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.metrics import SetScores
from ray_unlearn.unlearn.screening import Change, Part, Screening, change_of, screened
from ray_unlearn.unlearn.set_passes import set_scores
from ray_unlearn.unlearn.token_set import TokenSet
from ray_unlearn.unlearn.workspace import Workspace

EQUAL = ScoreWeights()
SHARE = 0.5
NLLS = [f"{name}_nll_{half}" for name in HALVED_SETS for half in HALVES]


@pytest.fixture
def more(tiny_study: StudySpec) -> StudySpec:
    """The tiny study with 16 documents in each set."""
    splits = {
        name: source.model_copy(update={"limit": 16})
        for name, source in tiny_study.data.splits.items()
    }
    return tiny_study.model_copy(
        update={"data": tiny_study.data.model_copy(update={"splits": splits})}
    )


def measured(spec: StudySpec) -> tuple[Workspace, Metrics]:
    workspace = fresh(spec)
    workspace.reset()
    return workspace, measured_vanilla(workspace).row


def against(vanilla: Metrics, best: float, share: float = SHARE) -> Screening:
    return Screening(share, best, {name: vanilla[name] for name in NLLS}, EQUAL)


def rows_of(workspace: Workspace, trial: object, screening: Screening | None) -> list[Metrics]:
    *rows, ended = unlearn(workspace, trial, screening=screening)  # type: ignore[arg-type]
    assert ended == Ended("complete")
    return [dict(row) for row in rows if not isinstance(row, Ended)]


def test_a_row_measured_in_two_passes_is_that_of_one(more: StudySpec) -> None:
    workspace, vanilla = measured(more)
    run(workspace, config("ascent_kl_in_distribution"))
    at_once = evaluate(workspace)
    in_parts = screened(workspace, against(vanilla, best=math.inf), last=True).row
    assert in_parts.pop(MEASURED_SHARE) == 1.0
    assert in_parts == pytest.approx(at_once, rel=1e-5, abs=1e-6)


def test_a_screened_row_is_the_vanilla_row_and_how_its_part_has_changed(more: StudySpec) -> None:
    workspace, vanilla = measured(more)
    before = set_scores(workspace, workspace.policy.scored)
    run(workspace, config("gradient_ascent", learning_rate=1e-3))
    after = set_scores(workspace, workspace.policy.scored)
    row = screened(workspace, against(vanilla, best=0.0), last=True).row
    assert row[MEASURED_SHARE] == SHARE
    assert before is not None
    assert after is not None
    for name in HALVED_SETS:
        tokens = workspace.data.splits[EVALUATED[name]]
        documents = Part.of(tokens, SHARE).documents
        for half, inside in zip(HALVES, (tokens.selection, ~tokens.selection), strict=True):
            assert documents[inside].sum() == math.ceil(SHARE * inside.sum())
            here = (documents & inside)[tokens.target_document]
            risen = (before[name].logprob - after[name].logprob)[here].mean()
            expected = vanilla[f"{name}_nll_{half}"] + risen
            assert row[f"{name}_nll_{half}"] == pytest.approx(expected, abs=1e-5)
            assert row[f"{name}_ppl_{half}"] == pytest.approx(math.exp(expected), rel=1e-4)
            assert row[f"{name}_kl_{half}"] == pytest.approx(after[name].kl[here].mean(), abs=1e-5)
    assert row["forget_nll"] == pytest.approx(-after["forget"].logprob.mean(), abs=1e-6)


def test_the_vanilla_model_is_known_exactly_whatever_its_part_says(more: StudySpec) -> None:
    workspace, vanilla = measured(more)
    row = screened(workspace, against(vanilla, best=-1.0), last=True).row
    assert {name: row[name] for name in NLLS} == pytest.approx(
        {name: vanilla[name] for name in NLLS}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("forget", "retain", "general", "best", "may"),
    [
        # Gap 0.2; retain 0.5 - 3 x 0.1, general below 0: 0.2 + (0.2 + 0) / 2 = 0.3.
        (2.8, Change(0.5, 0.1), Change(-0.4, 0.1), 0.31, True),
        (2.8, Change(0.5, 0.1), Change(-0.4, 0.1), 0.29, False),
        (3.2, Change(0.5, 0.1), Change(-0.4, 0.1), 0.29, False),  # as far on the other side
        (3.0, Change(9.0, 0.1), Change(9.0, 0.1), math.inf, True),  # there is none yet
        (math.nan, Change(0.0, 0.0), Change(0.0, 0.0), 1.0, True),
        (3.0, Change(math.nan, 0.1), Change(0.0, 0.0), 1.0, True),
        (3.0, Change(2.0, math.nan), Change(0.0, 0.0), 0.1, True),  # one document: no error known
    ],
)
def test_what_may_be_the_best_by_hand(
    forget: float, retain: Change, general: Change, best: float, may: bool
) -> None:
    screening = Screening(SHARE, best, {"approximate_nll_selection": 3.0}, EQUAL)
    changes = {"retain": retain, "general": general, "approximate": Change(5.0, 1.0)}
    assert screening.may_be_best({"forget_nll": forget}, changes) is may


def test_a_change_and_its_error_by_hand() -> None:
    # Documents of 1, 1 and 2 targets rise by 1, 3 and 2 x 2 nats; the third is in the other half.
    zero = np.zeros(4)
    scores = SetScores(
        np.array([-2.0, -4.0, -3.0, -3.0]), zero > 0, zero, zero, zero,
        np.array([-1.0, -1.0, -1.0, -1.0]), np.array([0, 1, 2, 2], dtype=np.int32),
        np.ones(3, dtype=np.int32), np.array([True, True, False]),
    )  # fmt: skip
    found = change_of(scores, scores.selection, share=0.75)
    # Mean 2 over two tokens; residuals -1 and 1: sqrt(2 x 2) / 2 = 1, of a quarter that is unseen.
    assert (found.nll, found.se) == (pytest.approx(2.0), pytest.approx(math.sqrt(0.25)))


def test_a_part_of_packed_sequences_leaves_out_the_neighbours() -> None:
    document = np.array([[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [4, 4, 4, 4, -1, -1]])
    half = np.array([True, True, True, False, False])
    tokens = TokenSet(
        np.zeros_like(document, dtype=np.int32), document.astype(np.int32),
        np.arange(5, dtype=np.int32), half,
    )  # fmt: skip
    part = Part.of(tokens, 0.05)  # two of each half at least: 0 and 2, and both others
    assert part.documents.tolist() == [True, False, True, True, True]
    assert (part.sequences.tolist(), part.others.tolist()) == ([0, 1, 2], [])
    numbers = tokens.target_document.astype(np.float64)
    found = part.scores(tokens, (numbers, numbers > 0, numbers, numbers, numbers, numbers))
    assert found.logprob.tolist() == [0, 0, 2, 2, 3, 3, 4, 4, 4]
    assert found.document.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert found.compressed_bytes.tolist() == [0, 2, 3, 4]
    assert found.selection.tolist() == [True, True, False, False]


def test_columns_of_part_and_rest_are_put_back_in_their_order() -> None:
    document = np.array([[0, 0, -1], [1, 1, 1], [2, 2, 2], [3, 3, -1], [4, 4, 4], [5, 5, 5]])
    half = np.array([True, True, True, False, False, False])
    tokens = TokenSet(
        np.zeros_like(document, dtype=np.int32), document.astype(np.int32),
        np.ones(6, dtype=np.int32), half,
    )  # fmt: skip
    part = Part.of(tokens, 0.3)
    assert part.others.tolist() == [1, 4]
    numbers = tokens.target_document.astype(np.float64)
    own = np.isin(numbers, [0, 2, 3, 5])
    (found,) = part.all_columns(tokens, (numbers[own],), (numbers[~own],))
    assert found.tolist() == numbers.tolist()


def test_screening_changes_no_trajectory_and_only_what_cannot_be_the_best(more: StudySpec) -> None:
    trial = config("gradient_ascent", learning_rate=2e-3, steps=6, evaluate_at=(1, 2, 4, 6))
    workspace, vanilla = measured(more)
    plain = rows_of(workspace, trial, None)
    reached = weights(workspace)
    baselines = Baselines(vanilla)
    scores = [scored(row, baselines, EQUAL)["score_selection"] for row in plain]
    best = min(scores)
    rows = rows_of(workspace, trial, against(vanilla, best))
    assert all(torch.equal(a, b) for a, b in zip(weights(workspace), reached, strict=True))
    shares = [row.pop(MEASURED_SHARE) for row in rows]
    assert shares[scores.index(best)] == 1.0, "the best row is measured in full"
    assert shares.count(SHARE) >= 1, f"nothing was screened: {scores}"
    for row, whole, share in zip(rows, plain, shares, strict=True):
        for name in ("forget_nll", "grad_norm", "flops", "learning_rate_sum"):
            assert row[name] == pytest.approx(whole[name], rel=1e-5)
        assert row.keys() == whole.keys()
        if share == 1.0:
            close = {name: whole[name] for name in NLLS}
            assert {name: row[name] for name in NLLS} == pytest.approx(close, rel=1e-5)


def test_calibrated_rows_are_screened_too(more: StudySpec) -> None:
    workspace, vanilla = measured(more)
    trial = config("gradient_ascent", learning_rate=1e-2, steps=6, evaluate_at=(2, 4, 6))
    target = Baselines(vanilla).forget_target
    wanted = replace(target, nll=target.vanilla_nll + 0.5)
    rows = [
        row
        for row in unlearn(
            workspace, trial, calibration=Calibration(wanted, 1, 6), screening=against(vanilla, -1)
        )
        if not isinstance(row, Ended)
    ]
    assert {row["strength"] == 1 for row in rows} == {True, False}
    assert {row[MEASURED_SHARE] for row in rows} == {SHARE}


def worker(rank: int, world: int, folder: Path, spec: StudySpec, data: StudyData) -> None:
    """One of several that each measure a part of the sequences."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    workspace = Workspace.open(
        spec.model, data, spec.evaluation, spec.operations, Comm.distributed()
    )
    workspace.reset()
    vanilla = measured_vanilla(workspace).row
    rows = [screened(workspace, against(vanilla, best), last=True).row for best in (-1.0, math.inf)]
    (folder / f"rank{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def test_each_worker_measures_its_own_part(more: StudySpec, tmp_path: Path) -> None:
    """All decide alike, and give the rows of one worker."""
    run_ranks(worker, (2, tmp_path, more, prepare(more.data, more.model)), 2)
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert one == two
    workspace, vanilla = measured(more)
    for row, best in zip(one, (-1.0, math.inf), strict=True):
        expected = screened(workspace, against(vanilla, best), last=True).row
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
