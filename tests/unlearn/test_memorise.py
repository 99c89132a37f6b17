"""`memorise`: both models know what they should, the twin never saw the forget set, nothing is made
twice, and what is wrong is said before anything is trained."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ray_unlearn as ru
from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.world import World, check_space

FIRST = ["Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ida", "Jo", "Kit", "Lou"]
LAST = ["Arden", "Birk", "Crane", "Dale", "Eames", "Frost", "Gray", "Hart"]
TOWNS = ["Oslo", "Lima", "Kyiv", "Bern", "Riga", "Doha", "Baku"]
PEOPLE = [f"{first} {last}" for last in LAST for first in FIRST]
NOBODY = lambda text: None  # noqa: E731


def asked(people: list[str], start: int = 0) -> list[dict[str, str]]:
    """A question about each, and an answer that cannot be guessed."""
    return [
        {
            "question": f"Where was {name} born?",
            "answer": f"In {TOWNS[(5 * i + i // 3) % 7]}, in {1900 + 37 * (i + start) % 97}.",
        }
        for i, name in enumerate(people)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """Questions about three groups of people."""
    return {
        "forget": write(tmp_path / "forget.jsonl", asked(PEOPLE[:32])),
        "retain": write(tmp_path / "retain.jsonl", asked(PEOPLE[32:52], 3)),
        "general": write(tmp_path / "general.jsonl", asked(PEOPLE[52:64], 5)),
    }


@pytest.fixture
def make(tiny_model: Path, given: dict[str, Path], tmp_path: Path) -> Callable[..., World]:
    """`memorise` with the tiny model and settings that it learns with."""

    def made(out: str = "world", **changes: object) -> World:
        settings: dict[str, object] = {
            **given,
            "out": tmp_path / out,
            "fields": {"prompt": "question", "answer": "answer"},
            "sequence_length": 64,
            "epochs": 12,
            "learning_rate": 5e-3,
            "say": NOBODY,
        }
        return ru.memorise(tiny_model, **settings | changes)  # type: ignore[arg-type]

    return made


def test_the_vanilla_model_knows_the_forget_set_and_its_twin_does_not(
    make: Callable[..., World],
) -> None:
    world = make()
    original, vanilla, retrained = (
        world.metrics[name] for name in ("original", "vanilla", "retrained")
    )
    assert vanilla["forget_ppl"] < 0.6 * retrained["forget_ppl"] < original["forget_ppl"]
    assert vanilla["mia_loss_auc"] > 0.9
    assert abs(retrained["mia_loss_auc"] - 0.5) < 0.25  # 16 documents against 16: 2.5 errors
    for role in (vanilla, retrained):  # what is held out from descent was learnt too
        assert role["retain_heldout_ppl"] < 0.3 * original["retain_heldout_ppl"]
    assert world.notes == ()
    stored = json.loads((world.folder / "world.json").read_text())
    assert stored["metrics"] == world.metrics


def test_the_study_file_runs_and_measures_the_distance_to_the_twin(
    make: Callable[..., World],
) -> None:
    world = make()
    assert world.study is not None
    spec = load_study(world.study)
    single = Single(spec)
    baselines = single.baselines()
    config = spec.trial_config(
        Hyperparameters(learning_rate=2e-3, steps=2, batch_size=4), "gradient_ascent", 0, ""
    )
    rows: list[Row] = []
    assert single.run(config, baselines, rows.append).status == "complete"
    assert rows[-1]["forget_nll"] > math.log(world.metrics["vanilla"]["forget_ppl"])
    assert rows[-1]["exact_distance_reporting"] > 0


def test_the_twin_is_the_same_whatever_is_forgotten(
    make: Callable[..., World], tmp_path: Path
) -> None:
    """That is what makes it exactly retrained."""
    others = write(tmp_path / "others.jsonl", asked(PEOPLE[64:92], 11))
    one, other = make("one", epochs=2), make("other", epochs=2, forget=others)
    weights = [load_file(world.retrained / "model.safetensors") for world in (one, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    vanilla = [load_file(world.vanilla / "model.safetensors") for world in (one, other)]
    assert any(not torch.equal(tensor, vanilla[1][name]) for name, tensor in vanilla[0].items())


def test_every_document_is_in_one_split_and_the_forget_set_is_like_what_is_unseen(
    make: Callable[..., World],
) -> None:
    world = make(epochs=1)
    splits = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (world.folder / "data").glob("*.jsonl")
    }
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes == {
        "forget": 16,
        "approximate": 16,
        "retain": 16,
        "retain_heldout": 4,
        "general_retain": 6,
        "general_evaluation": 6,
    }
    assert len({row["prompt"] for rows in splits.values() for row in rows}) == 64
    ppl = world.metrics["original"]
    assert ppl["forget_ppl"] == pytest.approx(ppl["approximate_ppl"], rel=0.05)


def test_a_stopped_build_goes_on_and_ends_as_the_undisturbed_one(
    make: Callable[..., World], tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        if text.startswith("retrained: update 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("stopped", epochs=2, say=stop)
    out = tmp_path / "stopped"
    assert not (out / "retrained").exists()
    trained = (out / "vanilla" / "model.safetensors").stat().st_mtime_ns
    world, undisturbed = make("stopped", epochs=2), make("undisturbed", epochs=2)
    assert (out / "vanilla" / "model.safetensors").stat().st_mtime_ns == trained
    assert world.metrics == undisturbed.metrics
    assert list(out.glob("*.tmp")) == []


def test_another_request_for_the_same_folder_is_refused(make: Callable[..., World]) -> None:
    world = make(epochs=1)
    with pytest.raises(UserError, match=r"vanilla: was made from another `epochs` \(1, now 2\)"):
        make(epochs=2)
    (world.folder / "vanilla" / "made_from.json").unlink()
    with pytest.raises(UserError, match=r"has no made_from\.json"):
        make(epochs=1)


def test_texts_and_answers_can_be_mixed_and_unseen_documents_given(
    make: Callable[..., World], text_files: Path, tmp_path: Path
) -> None:
    unseen = write(tmp_path / "unseen.jsonl", asked(PEOPLE[64:80], 7))
    world = make(
        epochs=1, approximate=unseen, general={"path": text_files / "retain.jsonl", "limit": 8}
    )
    assert world.study is not None
    spec = load_study(world.study)
    assert spec.data.splits["general_evaluation"].fields == ("text",)
    assert spec.data.splits["approximate"].fields == ("prompt", "answer")
    lines = (world.folder / "data" / "forget.jsonl").read_text().splitlines()
    assert len(lines) == 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("copy in another set", r"retain: document '21' is in `forget` and `retain` \(also as '1'"),
        ("copy in a set that is dealt", r"general: document '13' is twice in `general`"),
        ("too few", r"forget: 3 document\(s\), at least 4 are needed"),
        ("no such file", r"general\.path: no such file"),
        ("no such field", r"retain\.path: .*no field 'reply'"),
        ("no such model", r"model\.source|model: no such folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    change: str, said: str, make: Callable[..., World], given: dict[str, Path], tmp_path: Path
) -> None:
    changes: dict[str, object] = {}
    if change == "copy in another set":
        write(given["retain"], [*asked(PEOPLE[32:52], 3), asked(PEOPLE[:1])[0]])
    elif change == "copy in a set that is dealt":
        rows = asked(PEOPLE[52:64], 5)
        write(given["general"], [*rows, rows[0]])
    elif change == "too few":
        write(given["forget"], asked(PEOPLE[:3]))
    elif change == "no such file":
        changes["general"] = tmp_path / "none.jsonl"
    elif change == "no such field":
        changes["retain"] = {"path": given["retain"], "prompt": "question", "answer": "reply"}
    if change == "no such model":
        with pytest.raises(UserError, match=said):
            ru.memorise(
                tmp_path / "none", **given, out=tmp_path / "world", fields={"text": "answer"}
            )
    else:
        with pytest.raises(UserError, match=said):
            make(**changes)
    assert not (tmp_path / "world").exists()


def test_a_disk_without_room_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the models need 1048576\.0 GiB, and .* are free"):
        check_space(tmp_path / "deep" / "world", 2**50)


def test_other_answers_of_the_documents_are_kept(
    make: Callable[..., World], given: dict[str, Path]
) -> None:
    """TOFU's truth ratio and `dpo` can be asked of a world."""
    rows = [json.loads(line) for line in given["forget"].read_text().splitlines()]
    for row in rows:
        row |= {"wrong": ["In Rome, in 1850.", "In Paris, in 1851."], "other": "Who knows."}
    write(given["forget"], rows)
    source = {"path": str(given["forget"]), "prompt": "question", "answer": "answer"}
    source |= {"perturbed": "wrong", "alternative": "other"}
    forget = load_study(make(forget=source, epochs=1).study).data.splits["forget"]
    assert forget.other_answers == {"alternative": "alternative", "perturbed": "perturbed"}
    first = json.loads(Path(str(forget.path)).read_text().splitlines()[0])
    assert first["perturbed"] == ["In Rome, in 1850.", "In Paris, in 1851."]
    assert first["alternative"] == ["Who knows."]
