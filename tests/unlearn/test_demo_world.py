"""The bundled text and the world trained on it."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from ray_unlearn.demo import (
    DOMAINS,
    DemoModels,
    Recipe,
    build,
    build_retrained,
    demo_model,
    documents,
    is_built,
)
from ray_unlearn.demo.build import ROLES, SHIPPED, cache_key
from ray_unlearn.demo.pretrain import document_losses, training_texts
from ray_unlearn.demo.recipe import RECIPES, VERSION
from ray_unlearn.demo.text import text_file
from ray_unlearn.demo.tokenizer import train_tokenizer
from ray_unlearn.spec.data_spec import SPLITS, DataSpec
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.model import model_digest

REPOSITORY = Path(__file__).parents[2]
SHORT = Recipe(steps=4, layers=1)
DIGESTS = ["ccdd05788f96", "c643aa3c9913"]
"""Of the vanilla and the retrained model that come with the package."""


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_are_whole_and_share_no_text(domain: str) -> None:
    splits = documents(domain)
    assert tuple(splits) == SPLITS
    assert all(len(splits[name]) >= 50 for name in SPLITS)
    assert min(len(splits["forget"]), len(splits["approximate"])) >= 99
    texts = {name: {" ".join(d.text.split()) for d in split} for name, split in splits.items()}
    for one, other in combinations(SPLITS, 2):
        assert not texts[one] & texts[other], (one, other)
    for name, split in splits.items():
        assert len({d.id for d in split}) == len(split), name
        assert len(texts[name]) == len(split), name


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_block_of_a_source_is_in_two_splits(domain: str) -> None:
    """A scene, module or run of paragraphs goes to one split: no passage's neighbour is in
    another."""
    splits = documents(domain)
    blocks = {name: {d.id.rsplit("/", 1)[0] for d in split} for name, split in splits.items()}
    for one, other in combinations(SPLITS, 2):
        assert not blocks[one] & blocks[other], (one, other)


@pytest.mark.parametrize("domain", DOMAINS)
def test_text_stays_small_enough_to_bundle(domain: str) -> None:
    assert text_file(domain).stat().st_size < 120_000


def test_notice_names_every_file() -> None:
    notice = (text_file("latex").parent / "NOTICE.md").read_text()
    assert all(text_file(domain).name in notice for domain in DOMAINS)


def test_unknown_domain_gives_the_nearest(tmp_path: Path) -> None:
    for call in (documents, lambda name: build(name, tmp_path)):
        with pytest.raises(UserError, match=r"shakespere.*did you mean 'shakespeare'"):
            call("shakespere")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoModels, list[float]]:
    """Both models after four steps, and the progress that was told."""
    seen: list[float] = []
    folder = tmp_path_factory.mktemp("demo")
    return build("latex", folder, lambda stage, fraction: seen.append(fraction), SHORT), seen


def test_a_build_is_cached_by_all_that_decides_it(short: tuple[DemoModels, list[float]]) -> None:
    first, seen = short
    assert seen[-1] == 1.0
    before = (first.vanilla / "model.safetensors").stat().st_mtime_ns
    again = build("latex", first.folder.parent.parent, recipe=SHORT)
    assert again == first
    assert (again.vanilla / "model.safetensors").stat().st_mtime_ns == before
    assert cache_key("latex", Recipe(steps=5, layers=1)) != cache_key("latex", SHORT)
    assert cache_key("stdlib", SHORT) != cache_key("latex", SHORT)


def test_a_seed_decides_the_weights_bit_for_bit_and_nothing_else(
    short: tuple[DemoModels, list[float]], tmp_path: Path
) -> None:
    """The same seed gives the same retrained model; another seed other weights, same tokens."""
    retrained = short[0].retrained
    for seed in (0, 1):
        again = build_retrained("latex", seed, tmp_path, recipe=SHORT)
        assert build_retrained("latex", seed, tmp_path, recipe=SHORT) == again
        same = {
            name: (again / name).read_bytes() == (retrained / name).read_bytes()
            for name in ("tokenizer.json", "model.safetensors")
        }
        assert same == {"tokenizer.json": True, "model.safetensors": seed == SHORT.seed}


def test_a_model_seed_changes_both_models_and_neither_text_nor_tokens(
    short: tuple[DemoModels, list[float]], tmp_path: Path
) -> None:
    """`demo:latex#1` is a second model of one domain: the documents are those of `demo:latex`."""
    zero, cache = short[0], short[0].folder.parent.parent
    one = build("latex", cache, recipe=SHORT, seed=1)
    digests = {}
    for world in (zero, one):
        model = ModelSpec(source=str(world.vanilla))
        data = prepare(DataSpec(source="demo:latex"), model, tmp_path)
        digests[model_digest(model)] = (data.digest, data.split_digests)
    assert len(digests) == 2
    assert len({digest for digest, _ in digests.values()}) == 1
    assert (one.retrained / "model.safetensors").read_bytes() != (
        zero.retrained / "model.safetensors"
    ).read_bytes()
    # the world's own retrained model is that of its seed: nothing is trained a second time
    assert build_retrained("latex", 1, cache, recipe=SHORT) == one.retrained


def test_seed_0_is_the_world_that_there_was_before_model_seeds() -> None:
    """Its cache keys, and with them every study that was run on it."""
    keys = {domain: cache_key(domain, recipe) for domain, recipe in RECIPES.items()}
    assert keys == {
        "shakespeare": "9c6be5d6a2d5",
        "stdlib": "3692248f9d71",
        "latex": "e9aa9713f70b",
    }
    assert [demo_model(f"demo:latex{mark}") for mark in ("", "#2")] == [("latex", 0), ("latex", 2)]


def test_both_models_speak_the_same_tokens_and_cost_is_counted(
    short: tuple[DemoModels, list[float]],
) -> None:
    first, _ = short
    assert (first.vanilla / "tokenizer.json").read_bytes() == (
        first.retrained / "tokenizer.json"
    ).read_bytes()
    info = json.loads((first.folder / "world.json").read_text())
    # 6 x parameters x tokens counts no attention and no embedding: the same order of magnitude
    rough = 6 * info["parameters"] * info["retraining_tokens"]
    assert 0.5 < info["retraining_flops"] / rough < 2


@pytest.fixture
def shipped(tmp_path: Path) -> DemoModels:
    """The models that come with the package, asked for with an empty cache."""
    return build("shakespeare", tmp_path / "cache")


def test_the_demo_trains_nothing_and_writes_nothing_into_the_cache(
    shipped: DemoModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped.folder.parent == SHIPPED
    assert build_retrained("shakespeare", 0, tmp_path / "cache") == shipped.retrained
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("RAY_UNLEARN_CACHE", str(tmp_path / "cache"))
    assert is_built("shakespeare")
    assert not is_built("shakespeare", seed=1)
    assert not is_built("latex")


def test_a_model_that_was_trained_here_stays_the_one_of_studies_run_on_it(
    shipped: DemoModels, tmp_path: Path
) -> None:
    """Weights trained on another kind of processor differ in bits, and `resume` refuses them."""
    cached = tmp_path / "cache" / "demo_world" / shipped.folder.name
    shutil.copytree(shipped.folder, cached)
    assert build("shakespeare", tmp_path / "cache").vanilla == cached / "vanilla"


def test_another_recipe_or_text_never_gets_the_models_of_the_package(tmp_path: Path) -> None:
    """The recipe that is shipped is the one that is written down."""
    info = json.loads(next(SHIPPED.glob("shakespeare-*/world.json")).read_text())
    assert (info["recipe"], info["recipe_version"]) == (asdict(RECIPES["shakespeare"]), VERSION)
    assert [folder.name for folder in SHIPPED.iterdir()] == [
        f"shakespeare-{cache_key('shakespeare', RECIPES['shakespeare'])}"
    ]


def test_the_models_of_the_package_are_the_ones_that_studies_were_run_on(
    shipped: DemoModels,
) -> None:
    """Another digest, and no study on `demo:shakespeare` could be resumed or joined by new ones."""
    digests = [model_digest(ModelSpec(source=str(getattr(shipped, role)))) for role in ROLES]
    assert digests == DIGESTS


def test_the_models_of_the_package_have_the_losses_that_the_recipe_gave_them(
    shipped: DemoModels,
) -> None:
    """A damaged or wrong weight file, or other tokens, would show here."""
    recipe = RECIPES["shakespeare"]
    splits = documents("shakespeare")
    tokenizer = train_tokenizer(training_texts(splits, "retrained"), recipe.vocabulary)
    for role in ROLES:
        folder = shipped.folder / role
        saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(folder)
        for split in ("forget", "retain_heldout"):
            encoded = [tokenizer.encode(document.text).ids for document in splits[split]]
            assert encoded == [saved.encode(document.text).ids for document in splits[split]]
            nats, counts = zip(*document_losses(model, encoded, recipe.context), strict=True)
            expected = math.log(shipped.info["metrics"][role][f"{split}_ppl"])
            assert sum(nats) / sum(counts) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_recipe_makes_the_models_of_the_package() -> None:
    """Trained anew: the same tokenizer, and losses within what another rounding changes."""
    script = REPOSITORY / "scripts" / "demo_models.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_world_shows_memory_in_the_vanilla_model_and_none_in_the_retrained_one(domain: str) -> None:
    """What makes approximate retraining a fair target: checked against the exactly retrained
    model."""
    metrics = build(domain).info["metrics"]
    vanilla, retrained = metrics["vanilla"], metrics["retrained"]
    assert vanilla["mia_auc"] >= 0.85
    assert 0.45 <= retrained["mia_auc"] <= 0.55
    assert vanilla["forget_ppl"] < 0.7 * retrained["forget_ppl"]
    ratio = math.log(vanilla["approximate_ppl"]) / math.log(retrained["forget_ppl"])
    assert 0.9 <= ratio <= 1.1
