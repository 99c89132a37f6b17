"""Foreign tables: anyone's CSV or Parquet becomes the same trials, or an error that names file,
column, line, remedy."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_unlearn.analysis.read.column_roles import parse_mapping
from ray_unlearn.analysis.read.foreign_table import ForeignResults
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.health import health
from ray_unlearn.analysis.trials import TrialTable, trial_table
from ray_unlearn.spec.errors import UserError

SMALL = """trial,method,domain,seed,step,lr,score
1,npo,arxiv,0,10,1e-5,0.9
1,npo,arxiv,0,20,1e-5,0.5
2,npo,arxiv,1,10,1e-4,0.8
2,npo,arxiv,1,20,1e-4,nan
3,npo,arxiv,0,10,3e-5,0.7
3,npo,arxiv,0,20,3e-5,
1,npo,github,0,10,1e-5,0.4
"""


def with_column(text: str, name: str, value: str) -> str:
    """The CSV with one more column of one value."""
    first, *lines = text.splitlines()
    return "\n".join([f"{first},{name}", *(f"{line},{value}" for line in lines)]) + "\n"


@pytest.fixture
def read(tmp_path: Path):
    """Reads a text as a CSV file."""

    def _read(text: str, name: str = "theirs.csv", **how: Any) -> ForeignResults:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load([path], **how).foreign[0]

    return _read


@pytest.fixture
def table(tmp_path: Path):
    """The trial table of a text as a CSV file."""

    def _table(text: str, **how: Any) -> TrialTable:
        path = tmp_path / "theirs.csv"
        path.write_text(text, encoding="utf-8")
        return trial_table(load([path], **how))

    return _table


def test_trials_scores_and_what_an_empty_cell_means(table, tmp_path: Path) -> None:
    found = table(SMALL)
    trials = found.trials
    # Trial 1 of two domains is two trials; the best evaluation with a score counts. Trial 2 has
    # diverged at step 20 (written `nan`); at step 20 of trial 3 nothing was measured (empty).
    assert list(zip(trials["domain"], trials["update"], strict=True)) == [
        ("arxiv", 20.0),
        ("arxiv", 10.0),
        ("arxiv", 10.0),
        ("github", 10.0),
    ]
    np.testing.assert_array_equal(trials["score"], [0.5, 0.8, 0.7, 0.4])
    assert not trials["infeasible"].any()
    # By the stopping rule, without a target, the last one counts: a diverged model.
    stopped = table(with_column(SMALL, "score_rule", "stop_rule")).trials
    assert list(stopped["update"]) == [20.0, 20.0, 10.0, 10.0]
    assert list(stopped["infeasible"]) == [False, True, False, False]
    assert list(stopped["status"]) == ["complete", "diverged", "complete", "complete"]
    assert list(trials["group"]) == ["arxiv", "arxiv", "arxiv", "github"]
    facts = health(found, load([tmp_path / "theirs.csv"]))
    assert (facts.missing_evaluations, facts.duplicates, facts.trials, facts.seeds) == (
        1,
        0,
        4,
        (0.0, 1.0),
    )
    (axis,) = found.axes["npo"]
    assert (axis.name, axis.scale, axis.low, axis.high, axis.bounds_known) == (
        "learning_rate",
        "log",
        1e-5,
        1e-4,
        False,
    )


def test_a_trial_without_any_score_is_missing_unless_its_status_says_why(table) -> None:
    found = table(
        "trial,lr,score,status\n1,0.1,1,ok\n2,0.2,,diverged\n3,0.3,,\n4,0.4,,failed\n"
        "5,0.5,,OOM\n6,0.6,-inf,\n"
    )
    assert list(found.trials["learning_rate"]) == [0.1, 0.2, 0.5, 0.6]
    assert list(found.trials["status"]) == ["complete", "diverged", "out_of_memory", "diverged"]
    assert list(found.trials["infeasible"]) == [False, True, True, True]
    assert list(found.left_out["why"]) == ["no evaluation that could be deployed", "failed"]


def test_null_and_nan_in_parquet(tmp_path: Path) -> None:
    scores = pa.array([1.0, math.nan, None, math.inf], from_pandas=False)
    table = pa.table({"trial": ["a", "b", "c", "d"], "lr": [1.0, 2.0, 3.0, 4.0], "score": scores})
    pq.write_table(table, tmp_path / "theirs.parquet")
    results = load([tmp_path / "theirs.parquet"])
    found = trial_table(results)
    assert list(found.trials["learning_rate"]) == [1.0, 2.0, 4.0]
    assert list(found.trials["infeasible"]) == [False, True, True]
    assert results.foreign[0].missing == 1


def test_mapping_ignoring_and_maximising(table) -> None:
    text = "run,recipe,peak,wall_time,rouge,variant\n" + "".join(
        f"{i},cosine,{10.0**-i},{i * 7},{0.1 * i},text number {i % 3}\n" for i in range(1, 4)
    )
    mapping = parse_mapping(["run=trial", "peak=learning_rate", "wall_time=ignore"])
    found = table(text, mapping=mapping, score="rouge", maximise=True)
    assert [axis.name for axis in found.axes[""]] == [
        "learning_rate",
        "variant",
    ]  # `recipe` does not vary
    assert found.axes[""][1].choices == ("text number 0", "text number 1", "text number 2")
    assert (found.score.name, found.score.direction) == ("rouge", "maximize")
    np.testing.assert_allclose(found.trials["score"], [-0.1, -0.2, -0.3])  # lower is better inside
    np.testing.assert_allclose(found.as_given(found.trials["score"]), [0.1, 0.2, 0.3])
    assert found.axes[""][0].to_unit(found.trials["learning_rate"]) == pytest.approx([1, 0.5, 0])
    assert list(found.axes[""][1].to_unit(found.trials["variant"])) == [1, 2, 0]


KNOWN_TARGET = (
    "trial,update,lr,score,forget_nll,target_nll\n1,1,0.1,9,1,3\n1,2,0.1,8,3,3\n1,3,0.1,1,4,3\n"
    "2,1,0.2,7,1,3\n2,2,0.2,6,2,3\n3,1,0.3,5,,3\n"
)


def test_the_best_evaluation_scores_a_trial_unless_the_table_says_otherwise(table) -> None:
    found = table(KNOWN_TARGET)
    assert found.score.score_rule == "best_row"
    assert list(found.trials["update"]) == [3, 2, 1]
    assert list(found.trials["score"]) == [1, 6, 5]
    assert list(found.trials["crossed"]) == [True, False, None]
    assert found.score.checkpoint_rule == "the evaluation with the lowest `score`"
    assert any("chosen and scored by the same number" in note for note in found.notes)
    halves = table(
        "trial,update,lr,score,score_selection\n1,1,0.1,5,2\n1,2,0.1,1,3\n2,1,0.2,4,4\n"
        "3,1,0.3,1,1\n"
    )
    assert list(halves.trials["score"]) == [5, 4, 1], "chosen on one half, scored on the other"
    assert not any("chosen and scored" in note for note in halves.notes)


def test_the_stopping_rule_where_the_target_is_known(table) -> None:
    found = table(with_column(KNOWN_TARGET, "score_rule", "stop_rule"))
    assert found.score.score_rule == "stop_rule"
    assert list(found.trials["update"]) == [2, 2, 1]
    assert list(found.trials["score"]) == [8, 6, 5]  # not the 1 of update 3: the rule had stopped
    assert list(found.trials["crossed"]) == [True, False, None]
    assert "`forget_nll` reaches `target_nll`" in found.score.checkpoint_rule


def test_exact_copies_are_counted_and_contradictions_are_errors(read, tmp_path: Path) -> None:
    lines = SMALL.splitlines()
    again = read("\n".join([*lines, lines[1], lines[4], lines[6]]), name="again.csv")
    once = read(SMALL)
    assert again.duplicates == 3
    pd.testing.assert_frame_equal(again.rows, once.rows)
    with pytest.raises(
        UserError,
        match=r"trial 1 has two different rows at step 20: `score` is 0\.5 in line 3 and 0\.6 in",
    ):
        read(SMALL + "1,npo,arxiv,0,20,1e-5,0.6\n")
    with pytest.raises(UserError, match=r"`score` is empty in line 7 and 0\.6 in line 9; keep one"):
        read(SMALL + "3,npo,arxiv,0,20,3e-5,0.6\n")
    with pytest.raises(
        UserError,
        match=r"two different rows: .*name the column that counts steps: `--map COLUMN=step`",
    ):
        read("trial,lr,score\n1,0.1,3\n1,0.1,4\n")


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        (
            "trial,scor\n1,2\n",
            {},
            r"lacks the column score; it may be `scor`; say which it is: "
            r"`ray-unlearn report \S*theirs\.csv --score scor`",
        ),
        (
            "trial,lr,val_loss,val_acc\n1,2,3,4\n",
            {"sampler": "random"},
            r"it may be `val_loss`, `val_acc`; say which it is: "
            r"`ray-unlearn report \S*theirs\.csv --sampler random --score val_loss`",
        ),
        ("trial,score\n", {}, "holds no line"),
        ("trial,score\n1,2\n", {"mapping": {"lrr": "lr"}}, r"--map lrr=lr: no column 'lrr'"),
        (
            "trial,rouge\n1,2\n",
            {"mapping": {"score": "rouge"}},
            r"the column comes first: rouge=score",
        ),
        (
            "trial,a,b\n1,2,3\n",
            {"mapping": {"a": "score", "b": "score"}},
            r"columns `a` and `b` are both mapped to 'score'",
        ),
        (
            "trial,a,score\n1,2,3\n",
            {"mapping": {"a": "seed"}, "score": "b"},
            r"--score b: no column 'b'",
        ),
        (
            "trial,lr,learning_rate,score\n1,2,3,4\n",
            {"mapping": {"lr": "learning_rate"}},
            r"`lr` and `learning_rate` are both 'learning_rate'; say `--map learning_rate=ignore`",
        ),
        (
            "trial,lr,score\n1,0.1,2\n2,0.2,much\n",
            {},
            r"column `score` must hold numbers, got 'much' in line 3",
        ),
        (
            "trial,lr,score\n1,0.1,2\n2,low,3\n3,0.1,2\n",
            {},
            r"column `lr` must hold numbers, got 'low' in line 3",
        ),
        (
            "trial,lr,score\n1,0.1,2\n2,inf,3\n",
            {},
            r"column `lr` is inf in line 3; a hyperparameter is finite",
        ),
        ("trial,lr,score\n1,0.1,2\n,0.2,3\n", {}, "line 3 has no `trial`"),
        (
            "trial,step,lr,score\n1,1,0.1,2\n1,2,0.2,3\n",
            {},
            r"trial 1 has two values of `lr`, 0\.1 in line 2 and 0\.2 in line 3, .*`--map "
            r"lr=ignore`",
        ),
        (
            "trial,step,kind,score\n1,1,a,2\n1,2,b,3\n",
            {"params": ["kind"]},
            r"trial 1 has two values of `kind`, 'a' in line 2 and 'b' in line 3",
        ),
        (
            "trial,step,seed,score\n1,1,0,2\n1,1,1,3\n",
            {},
            r"two values of `seed`, 0 in line 2 and 1 in line 3.*its own trial",
        ),
        (
            "trial,score,score_rule\n1,2,last\n",
            {},
            r"column `score_rule` is 'last'; write one of best_row, stop_rule in every",
        ),
        (
            "trial,score,score_rule\n1,2,best_row\n2,3,stop_rule\n",
            {},
            r"is 'best_row' and 'stop_rule'; write one of",
        ),
        (
            "trial,score,status\n1,2,complet\n",
            {},
            r"column `status` is 'complet' in line 2; did you mean 'complete'",
        ),
        ("trial,trial,score\n1,2,3\n", {}, "two columns are named 'trial'"),
        ("trial,step,update,score\n1,2,3,4\n", {}, r"`step` and `update` are both 'step'"),
        ("trial,lr,score\n1,2,3\n", {"mapping": {"lr": "group"}}, "'group' has a meaning here"),
    ],
)
def test_errors_name_the_place_and_the_remedy(
    read, text: str, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"theirs\.csv: .*{message}"):
        read(text, **how)


def test_mapping_pairs() -> None:
    assert parse_mapping(["lr=learning_rate", "a=b=score"]) == {
        "lr": "learning_rate",
        "a=b": "score",
    }
    with pytest.raises(UserError, match="write THEIRS=OURS"):
        parse_mapping(["lr"])
    with pytest.raises(UserError, match="'lr' is mapped to 'a' already"):
        parse_mapping(["lr=a", "lr=b"])


def test_options_for_foreign_tables_are_refused_for_our_own(planted_study: Path) -> None:
    with pytest.raises(
        UserError, match=r"--map lr=learning_rate --maximise: only for foreign tables"
    ):
        load([planted_study], mapping={"lr": "learning_rate"}, maximise=True)


def test_the_order_of_lines_and_columns_does_not_matter(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "trial": np.arange(60),
            "lr": 10 ** draw.uniform(-6, -4, 60),
            "batch": draw.choice([8, 16], 60),
        }
    )
    frame = frame.assign(
        domain=draw.choice(["b", "a"], 60),
        method=draw.choice(["x", "y"], 60),
        kind=draw.choice(["q", "p"], 60),
    )
    frame = frame.merge(pd.DataFrame({"step": [1, 2, 3]}), how="cross")
    frame["score"] = draw.normal(size=len(frame))
    frame.to_csv(tmp_path / "one.csv", index=False)
    shuffled = frame.sample(frac=1, random_state=1)
    shuffled[list(draw.permutation(shuffled.columns))].to_csv(tmp_path / "two.csv", index=False)
    one, two = (trial_table(load([tmp_path / name])) for name in ("one.csv", "two.csv"))
    renamed = one.trials.assign(study="two")
    pd.testing.assert_frame_equal(two.trials, renamed)
    pd.testing.assert_frame_equal(two.rows, one.rows)
    assert (two.axes, two.score) == (one.axes, one.score)
    assert [axis.name for axis in one.axes["x"]] == ["learning_rate", "batch", "kind"]


def test_steps_in_a_trials_only_line_are_a_hyperparameter(table) -> None:
    found = table("trial,steps,lr,score\n1,10,0.1,1\n2,20,0.2,2\n3,40,0.1,3\n")
    assert [axis.name for axis in found.axes[""]] == ["learning_rate", "steps"]
    assert list(found.trials["update"]) == [10, 20, 40]
    both = table("trial,step,steps,lr,score\n1,1,2,0.1,1\n1,2,2,0.1,1.5\n2,1,3,0.2,2\n")
    assert list(both.trials["update"]) == [2, 1]
    assert [axis.name for axis in both.axes[""]] == ["learning_rate", "steps"]


def test_one_and_two_trials_load(table) -> None:
    one = table("trial,lr,score\n1,0.1,3\n")
    assert one.axes == {"": ()}
    assert one.score.tolerance == pytest.approx(0.003)
    two = table("trial,lr,score\n1,0.1,3\n2,0.2,3\n")
    assert [axis.name for axis in two.axes[""]] == ["learning_rate"]
    assert table("trial,lr,score\n1,0.1,inf\n").trials["infeasible"].all()
    with pytest.raises(UserError, match="none of the 1 trials has an outcome"):
        table("trial,lr,score\n1,0.1,\n")


def test_samplers_decide_what_was_drawn_from_the_space(table) -> None:
    text = (
        "trial,lr,score,sampler\n1,0.1,1,random\n2,0.2,2,TPE\n3,0.3,3,Sobol\n4,0.4,4,\n"
        "5,0.5,5,hand-picked\n"
    )
    assert list(table(text).trials["drawn"]) == [
        "space",
        "adaptive",
        "space",
        "unknown",
        "adaptive",
    ]
    plain = "trial,lr,score\n1,0.1,1\n2,0.2,2\n"
    assert set(table(plain).trials["drawn"]) == {"unknown"}
    assert set(table(plain, sampler="random").trials["drawn"]) == {"space"}


def test_tolerance_from_seeds_of_equal_configurations(table) -> None:
    # Three configurations with three seeds each, within-configuration variance 1: tau is 1 on 6
    # degrees of freedom.
    lines = [(c * 3 + s, 10.0**c, s, 5 * c + s) for c in range(3) for s in range(3)]
    text = "trial,lr,seed,score\n" + "".join(f"{t},{lr},{s},{score}\n" for t, lr, s, score in lines)
    found = table(text)
    assert found.score.tolerance == pytest.approx(1.0)
    assert "equal hyperparameters (6 degrees of freedom)" in found.score.tolerance_source
    # No repeats: a tenth of the interquartile range, here of 0 ... 8.
    alone = table("trial,lr,score\n" + "".join(f"{i},{2.0**i},{i}\n" for i in range(9)))
    assert alone.score.tolerance == pytest.approx(0.4)
    assert "interquartile range" in alone.score.tolerance_source


def test_a_hyperparameter_that_some_trials_lack_is_no_axis(table) -> None:
    found = table("trial,lr,beta,score\n1,0.1,,1\n2,0.2,0.5,2\n3,0.3,0.7,3\n")
    assert [axis.name for axis in found.axes[""]] == ["learning_rate"]
    assert any("beta" in note and "1 of 3" in note for note in found.notes)


def test_remarks_are_left_out_and_said_to_be(table) -> None:
    text = "trial,lr,path,score\n" + "".join(f"{i},{i}.5,folder/{i},{i}\n" for i in range(1, 20))
    found = table(text)
    assert [axis.name for axis in found.axes[""]] == ["learning_rate"]
    found = table(text.replace("path", "recipe"))
    assert "column `recipe` of theirs.csv is left out: text with more than 12 values" in found.notes


def test_two_tables_must_share_their_score(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("trial,lr,score\n1,0.1,1\n2,0.2,1\n")
    (tmp_path / "two.csv").write_text("trial,lr,score\n1,0.1,2\n2,0.4,1\n")
    found = trial_table(load([tmp_path / "two.csv", tmp_path / "one.csv"]))
    assert list(found.trials["study"]) == ["one", "one", "two", "two"]
    assert list(found.rows["trial"]) == [0, 1, 2, 3]
    (tmp_path / "copy.csv").write_bytes((tmp_path / "one.csv").read_bytes())
    with pytest.raises(UserError, match=r"copy\.csv: the same table as one\.csv"):
        load([tmp_path / "one.csv", tmp_path / "copy.csv"])


def test_a_foreign_score_beside_our_own(planted_study: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("trial,lr,loss\n1,0.1,1\n2,0.2,1\n")
    with pytest.raises(
        UserError, match=r"its score is `loss`, that of .* is `score`; report on them separately"
    ):
        trial_table(load([planted_study, tmp_path / "one.csv"], score="loss"))
    (tmp_path / "two.csv").write_text(
        "trial,method,learning_rate,score\n1,npo,0.1,1\n2,npo,0.2,1\n"
    )
    both = trial_table(load([planted_study, tmp_path / "two.csv"]))
    assert both.methods[-1] == "npo"
    assert [axis.name for axis in both.axes["npo"]] == ["learning_rate"]
