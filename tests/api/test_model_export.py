"""`export` of a model: refused, measured from what was written, described.

On a study that an earlier version stored: no Ray, a real tiny model.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from births import needs_harness, own_perplexity, task_files
from huggingface_hub import ModelCard
from printed import run_example
from safetensors.torch import load_file, save_file
from tiny import REPOSITORY

import ray_unlearn as ru
from ray_unlearn.analysis.read.study_results import load
from ray_unlearn.analysis.report.verdict import feasible
from ray_unlearn.store.attack_file import AttackedModel, AttackOutcome, write_attacks
from ray_unlearn.unlearn.single_trial import Single

FIXTURES = REPOSITORY / "tests/fixtures"
BASE = FIXTURES / "study_schema_2/model"
FORGET = FIXTURES / "study_schema_2/text/forget.jsonl"
FEASIBLE = 4
"""A trial whose scored row the report calls feasible; the best one's is not."""


def stored_study(folder: Path, base: Path = BASE) -> Path:
    """A stored study with its model and texts."""
    shutil.copytree(FIXTURES / "study_schema_3/study", folder)
    text = (folder / "study.yaml").read_text().replace("/example/model", str(base))
    (folder / "study.yaml").write_text(text.replace("/example/", f"{BASE.parent}/"))
    return folder


@dataclass
class Exported:
    """A model, its study, and what was said while it was exported."""

    study: Path
    model: Path
    said: str

    @property
    def card(self) -> str:
        return (self.model / "README.md").read_text()

    @property
    def numbers(self) -> dict[str, dict[str, str]]:
        """The table of measurements, by line and column, as it is printed."""
        table = self.card.split("## Measured")[1].split("## Attacks")[0]
        lines = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*", table, re.M)]
        head, _, *rows = lines
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def exported(study: Path, model: Path, trial: str | int = FEASIBLE, **how: Any) -> Exported:
    said: list[str] = []
    ru.open(study).export(model, trial, say=said.append, **how)
    return Exported(study, model, "\n".join(said))


@pytest.fixture(scope="module")
def feasible_one(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A feasible model; tests do not change it."""
    folder = tmp_path_factory.mktemp("exported")
    return exported(stored_study(folder / "study"), folder / "model")


def test_a_model_that_the_report_calls_not_feasible_is_refused_before_it_is_made(
    feasible_one: Exported, tmp_path: Path
) -> None:
    study = feasible_one.study
    best = ru.open(study).best.number
    results = load([study]).studies[0]
    rows = results.rows.assign(feasible=feasible(results))
    judged = rows[rows["scored"]].set_index("number")["feasible"]
    assert not judged[best]
    assert judged[FEASIBLE]
    said: list[str] = []
    with pytest.raises(ru.UserError) as refused:
        ru.open(study).export(tmp_path / "model", "best", say=said.append)
    assert re.search(r"not feasible .*forget perplexity 531 is 0.899 times", str(refused.value))
    assert f"trial {FEASIBLE} is feasible" in str(refused.value)
    assert "--anyway" in str(refused.value)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_anyway_exports_it_and_the_card_says_what_the_report_says(
    feasible_one: Exported, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()  # may be where a disk is mounted: nothing can replace it
    inode = (tmp_path / "model").stat().st_ino
    found = exported(feasible_one.study, tmp_path / "model", "best", anyway=True)
    assert "The study's report calls this model not feasible" in found.card
    assert "times the target" in found.card
    assert found.model.stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not [path for path in found.model.iterdir() if path.is_dir()]


def test_the_card_has_the_numbers_that_a_stranger_measures_with_plain_transformers(
    feasible_one: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    table = feasible_one.numbers
    rows = ru.open(feasible_one.study).rows
    row = rows[(rows["number"] == FEASIBLE) & rows["scored"]].iloc[0]
    for line, column in {
        "forget perplexity": "forget_ppl",
        "retain perplexity": "retain_ppl_reporting",
        "AUC of the loss attack": "mia_loss_auc_reporting",
        "score": "score_reporting",
    }.items():
        assert float(table[line]["this model"]) == pytest.approx(row[column], rel=1e-3)
    vanilla = ru.open(feasible_one.study).baselines.set_index("baseline").loc["vanilla"]
    forget = table["forget perplexity"]
    assert float(forget["target"]) == pytest.approx(vanilla["approximate_ppl_reporting"], rel=1e-5)
    for model, column in ((feasible_one.model, "this model"), (BASE, "vanilla")):
        said = measured_by_hand(model, capsys)
        assert float(said["perplexity"]) == pytest.approx(float(forget[column]), rel=1e-4)
        assert f"`{said['sha256']}`" in feasible_one.card
        assert f"| documents | {said['documents']} |" in feasible_one.card


def measured_by_hand(model: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What examples/measure_exported_model.py says of the forget set."""
    lengths = ("--sequence-length", 48, "--max-sequences", 2)
    run_example("measure_exported_model.py", model, FORGET, *lengths)
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(": ") for line in lines)


def test_the_card_has_no_word_of_a_document_and_no_path_of_this_machine(
    feasible_one: Exported,
) -> None:
    texts = [json.loads(line)["text"] for line in FORGET.read_text().splitlines()]
    pieces = {piece.strip() for text in texts for piece in text.split("\n") if len(piece) > 20}
    assert len(pieces) > 50
    assert not [piece for piece in pieces if piece in feasible_one.card]
    written = "".join(path.read_text() for path in feasible_one.model.glob("*.[jm][sd]*"))
    assert str(BASE.parent) not in written
    assert str(feasible_one.study.parent) not in written


def test_the_folder_is_the_vanilla_models_with_other_weights(feasible_one: Exported) -> None:
    """A field that is left over changes what a stranger's program does."""
    model, base = feasible_one.model, {path.name for path in BASE.iterdir()}
    assert {path.name for path in model.iterdir()} == base | {"README.md"}
    for name in ("config.json", "generation_config.json"):
        assert json.loads((model / name).read_text()) == json.loads((BASE / name).read_text())
    own, theirs = (load_file(one / "model.safetensors") for one in (model, BASE))
    assert own.keys() == theirs.keys()
    assert any(not torch.equal(own[name], theirs[name]) for name in own)
    modes = {path.stat().st_mode for path in model.iterdir()}
    assert len(modes) == 1, "weights that only their owner can read are of no use to a colleague"

    card = ModelCard.load(model / "README.md")
    assert card.data.license == "unknown"
    assert card.data.base_model is None, "the hub refuses a card whose base is no hub id"
    assert card.data.library_name == "transformers"
    assert {"unlearning", "gradient_ascent"} <= set(card.data.tags)
    assert "Not attacked" in card.text
    assert "had no report" in card.text


def test_a_model_that_is_another_one_once_written_is_an_error_that_leaves_nothing(
    feasible_one: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Single.save

    def spoilt(self: Single, folder: Path, *how: Any) -> None:
        whole(self, folder, *how)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] *= 1.01
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(Single, "save", spoilt)
    (tmp_path / "there").mkdir()
    with pytest.raises(ru.UserError, match=r"the model that was written has \w+_nll\w* \d"):
        exported(feasible_one.study, tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_an_update_without_a_row_is_judged_by_what_is_measured(
    feasible_one: Exported, tmp_path: Path
) -> None:
    """Trial 3 has no row of update 3, at which it has forgotten too much."""
    rows = ru.open(feasible_one.study).rows
    assert 3 not in set(rows[rows["number"] == 3]["update"])
    said: list[str] = []
    with pytest.raises(ru.UserError, match="not feasible"):
        ru.open(feasible_one.study).export(tmp_path / "model", 3, update=3, say=said.append)
    assert said[-1] == "measuring what was written"
    assert list(tmp_path.iterdir()) == []


def test_the_card_shows_attacks_and_the_licence_of_the_base(
    feasible_one: Exported, tmp_path: Path
) -> None:
    base = shutil.copytree(BASE, tmp_path / "base")
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n# Base\n"
    )
    study = stored_study(tmp_path / "study", base)
    best = ru.open(study).best
    outcome = AttackOutcome("quantise", "4 bits", "", 4, {"trial": 6.2, "vanilla": 6.0}, {})
    outcome.nll.update(trial=6.1, vanilla=6.0)
    key = (best.method, best.number, best.trial_id, 0, best.update, 1.0)
    write_attacks(study, [AttackedModel(*key, outcomes=(outcome,))])
    found = exported(study, tmp_path / "model", "best", anyway=True)
    card = ModelCard.load(found.model / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "llama3")
    assert "| quantise | 4 bits |  | 0.50 |" in card.text
    assert "Not attacked" not in card.text


@needs_harness
def test_lm_eval_reads_the_folder_as_it_is(
    feasible_one: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    task_files(tmp_path)
    monkeypatch.chdir(tmp_path)  # the task's data are beside its file
    model = feasible_one.model
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        device="cpu",
        tasks=["births"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )
    assert found["results"]["births"]["perplexity,none"] == pytest.approx(
        own_perplexity(model, model), rel=1e-4
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"form": "adapter"}, "trains whole models"),
        ({"form": "gguf"}, r"must be `merged` \(whole weights\) or `adapter`"),
        ({"public": True}, "give --push OWNER/NAME too"),
        ({"trial": 99}, "no trial '99'"),
        ({"trial": None, "push": "me/model"}, "not the table; name a trial"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_loaded(
    feasible_one: Exported, tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    said: list[str] = []
    with pytest.raises(ru.UserError, match=message):
        ru.open(feasible_one.study).export(
            tmp_path / "model", **{"trial": FEASIBLE} | how, say=said.append
        )
    assert said == []
    assert list(tmp_path.iterdir()) == []
