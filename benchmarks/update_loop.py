r"""The cost of one update: this package's loop, usual loops, and its matrix multiplications.

    ours     `ray_unlearn.unlearn.loop.unlearn`, as a lane runs it (no evaluation, no checkpoint)
    Trainer  a `transformers.Trainer` whose `compute_loss` makes a forward pass of the forget and
             one of the retain sequences, with whole logits; KL makes a forward pass of a frozen
             copy of the model in every update
    plain    the same loss in a loop written by hand: AdamW, clipping, nothing else
    peer     OpenUnlearning's `GradDiff` in the same Trainer, where `--peer` names a checkout of it
    floor    the matrix multiplications and the attention of the same shapes alone: linear layers
             and head once forward and twice backward, on the real lengths; with KL also P_0's head.
             Nothing is faster without smaller shapes

All work on one copy of the model, on the same sequences in the same order, padded to the longest of
the batch where a collator does the padding. Before anything is timed the total losses of the first
updates are compared. Rounds are interleaved; a round's first updates are left out, so P_0's hidden
states, which a lane computes once, are not in ours. `cpu` is the process's CPU time, in which a
busy neighbour shows least.

    python benchmarks/update_loop.py [--updates 30] [--rounds 5] [--methods ascent descent kl] \
        [--profile]
    python benchmarks/update_loop.py --device cuda --config 7b --sequence-length 2048 \
        --batch-size 2 [--lora 16] [--json FILE]

Our moments are float32; the others' have the dtype of the weights, bfloat16 there.

`--config` builds a model of random weights instead of loading one; with `--device cuda` the table
has tokens/s, model-FLOPs utilisation and peak memory too. Where `accelerate` is not installed,
Trainer and peer are left out.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    import numpy as np
    import torch
    import transformers
    from contestants import (
        CHECKED,
        NAMES,
        SEED,
        Clock,
        Cost,
        Task,
        floor,
        load_peer,
        our_losses,
        ours,
        plain,
        with_trainer,
    )
    from update_profile import profile

    from ray_unlearn.spec.data_spec import SPLITS
    from ray_unlearn.spec.model_spec import LoraSpec, ModelSpec
    from ray_unlearn.spec.operations import Operations
    from ray_unlearn.spec.study_file import load_study
    from ray_unlearn.spec.study_spec import EvaluationSpec
    from ray_unlearn.unlearn.comm import Comm
    from ray_unlearn.unlearn.data import StudyData, prepare
    from ray_unlearn.unlearn.model import make_ready
    from ray_unlearn.unlearn.token_set import TokenSet
    from ray_unlearn.unlearn.workspace import Workspace
except ImportError as error:
    sys.exit(
        f"{error}\nneeded: torch transformers numpy scipy pydantic pyyaml safetensors filelock "
        "(no ray)"
    )

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "135m": {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 128_256,
        "hidden_size": 2_048,
        "intermediate_size": 8_192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "7b": {
        "vocab_size": 32_000,
        "hidden_size": 4_096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    },
}
"""The shapes of SmolLM2 135M, Llama 3.2 1B (1.24 B parameters) and Llama 2 7B (6.74 B)."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16."""


Contestant = Callable[[Task, Clock], None]
Costs = dict[str, list[Cost]]


def measure(
    task: Task, contestants: dict[str, Contestant], updates: int, rounds: int
) -> dict[str, list[Cost]]:
    """Costs per contestant and round, in interleaved rounds.

    A contestant that runs out of memory has none.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            clock = Clock(updates, task.workspace.device)
            try:
                run(task, clock)
                costs[name].append(clock.cost())
            except torch.OutOfMemoryError:
                print(f"{task.method}, {name}: out of memory", flush=True)
            task.workspace.policy.model.zero_grad(set_to_none=True)
    return costs


def check_losses(task: Task, recorders: dict[str, Callable[..., None]], tolerance: float) -> None:
    """The contestants minimise the same thing.

    Raises:
        AssertionError: the losses of the first updates differ.
    """
    attention_before = task.workspace.policy.model.config._attn_implementation
    try:
        expected = our_losses(task)
    except torch.OutOfMemoryError:
        print(f"{task.method}: ours is out of memory, losses are not compared", flush=True)
        return
    attention_now = task.workspace.policy.model.config._attn_implementation
    assert attention_now == attention_before, (
        f"our loop changed the policy's attention to {attention_now}"
    )
    for name, run in recorders.items():
        found: list[float] = []
        try:
            run(task, Clock(CHECKED, task.workspace.device, warm_up=0), losses=found)
        except torch.OutOfMemoryError:
            print(f"{task.method}: {name} is out of memory, its losses are not compared")
            continue
        finally:
            task.workspace.policy.model.zero_grad(set_to_none=True)
        worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
        print(
            f"{task.method}: losses of updates 1 to {CHECKED} of ours and {name} differ by at "
            f"most {worst:.1e}"
        )
        assert worst < tolerance, (name, expected, found)


def show(task: Task, costs: dict[str, list[Cost]]) -> None:
    """Print medians over the rounds, and times over ours.

    The latter are the median of the rounds' ratios with their range.
    """
    mine = costs["ours"]
    print(f"{task.method:8} {'cpu ms':>8} {'over ours':>18} {'wall ms':>9} {'over ours':>18}")
    for name, found in costs.items():
        line = f"  {name:6}"
        for kind in ("cpu_ms", "wall_ms"):
            values = [getattr(cost, kind) for cost in found]
            ratio = ""
            if name != "ours" and len(found) == len(mine):
                ratios = [
                    theirs / getattr(own, kind) for theirs, own in zip(values, mine, strict=True)
                ]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            line += (
                f" {statistics.median(values):8.1f} {ratio:>18} " if values else " out of memory "
            )
        print(line.rstrip(), flush=True)
    if task.workspace.device.type == "cuda":
        show_device(task, costs)


def record(file: Path, given: argparse.Namespace, method: str, costs: Costs) -> None:
    """Append a line of JSON per contestant: the case, and the costs of its rounds."""
    case = {
        "step": "update",
        "size": given.config or given.model,
        "dtype": given.dtype,
        "lora": given.lora,
        "sequence_length": given.sequence_length,
        "batch_size": given.batch_size,
        "method": method,
        "machine": machine(given.device),
    }
    with file.open("a") as lines:
        for name, found in costs.items():
            lines.write(json.dumps(case | {"contestant": name, "rounds": list(map(asdict, found))}))
            lines.write("\n")


def show_device(task: Task, costs: dict[str, list[Cost]]) -> None:
    """Print real tokens per second, their model-FLOPs utilisation and peak memory.

    A weight that is trained counts 6 FLOPs a token, a frozen one (LoRA) 4.
    """
    policy = task.workspace.policy.model
    length = task.workspace.data.splits["forget"].input_ids.shape[1]
    real = float((task.workspace.data.splits["forget"].document >= 0).mean())
    tokens = len(task.splits) * task.batch_size * length * real
    embedding = (
        0 if policy.config.tie_word_embeddings else policy.get_input_embeddings().weight.numel()
    )
    weights = sum((6 if p.requires_grad else 4) * p.numel() for p in policy.parameters())
    weights -= (6 if policy.get_input_embeddings().weight.requires_grad else 4) * embedding
    causal = 6 * policy.config.num_hidden_layers * policy.config.hidden_size * length
    flops = tokens * (weights + causal)
    name = torch.cuda.get_device_name(task.workspace.device)
    peak = next((value for key, value in PEAK_FLOPS.items() if key in name), float("nan"))
    for contestant, found in costs.items():
        if found and contestant != "floor":
            seconds = statistics.median(cost.wall_ms for cost in found) / 1000
            print(
                f"{task.method:8} {contestant:8} {tokens / seconds:10,.0f} tokens/s, MFU "
                f"{flops / seconds / peak:.1%}, "
                f"peak {max(cost.peak_gib for cost in found):.1f} GiB",
                flush=True,
            )


def demo(source: str, device: str) -> Workspace:
    """A study's model on the data of `studies/demo.yaml`."""
    spec = load_study(Path(__file__).parent.parent / "studies" / "demo.yaml")
    model = spec.model.model_copy(update={"source": source})
    make_ready(model)
    if source.startswith("demo:"):
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"source": source})})
    data = prepare(spec.data, model)
    return Workspace.open(model, data, spec.evaluation, spec.operations, Comm.single(), device)


def random_weights(given: argparse.Namespace) -> Workspace:
    """A Llama of random weights and random token sequences, of full length but for every eighth."""
    torch.manual_seed(SEED)
    length = given.sequence_length
    config = transformers.LlamaConfig(
        **SIZES[given.config], max_position_embeddings=length, use_cache=False
    )
    config.dtype = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(given.device):
            transformers.AutoModelForCausalLM.from_config(
                config, dtype=config.dtype
            ).save_pretrained(folder)
        sizes = {
            name: given.retain_sequences if name == "retain" else 2 * given.batch_size
            for name in SPLITS
        }
        splits = {
            name: random_tokens(size, length, config.vocab_size, i)
            for i, (name, size) in enumerate(sizes.items())
        }
        data = StudyData("random", "random", splits, np.arange(config.vocab_size, dtype=np.int32))
        lora = LoraSpec(rank=given.lora) if getattr(given, "lora", None) else None
        model = ModelSpec(source=folder, dtype=given.dtype, lora=lora)
        evaluation = EvaluationSpec(count=1, batch_size=given.batch_size)
        return Workspace.open(model, data, evaluation, Operations(), Comm.single(), given.device)


def random_tokens(
    size: int, length: int, vocabulary: int, seed: int, full: bool = False
) -> TokenSet:
    """One document per sequence; every eighth fills three quarters of it, unless all are `full`."""
    generator = np.random.default_rng(seed)
    document = np.repeat(np.arange(size, dtype=np.int32)[:, None], length, axis=1)
    if not full:
        document[::8, 3 * length // 4 :] = -1
    ids = generator.integers(0, vocabulary, (size, length), dtype=np.int32)
    return TokenSet(
        ids, document, np.full(size, 3 * length, dtype=np.int32), np.arange(size) % 2 == 0
    )


def machine(device: str) -> str:
    """The machine that the numbers were measured on."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        name = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
            platform.machine(),
        )
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, python "
        f"{platform.python_version()}"
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load {load}; "
        f"{versions}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="demo:shakespeare", help="`demo:<domain>`, or a folder or hub id"
    )
    parser.add_argument(
        "--config", choices=list(SIZES), help="random weights of this size instead of a model"
    )
    parser.add_argument("--sequence-length", type=int, default=128, help="with --config")
    parser.add_argument(
        "--retain-sequences", type=int, default=512, help="with --config: whether P_0's states fit"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="with --config; default bfloat16 on cuda"
    )
    parser.add_argument("--lora", type=int, help="with --config: adapters of this rank")
    parser.add_argument("--json", type=Path, help="append a line per contestant to this file")
    parser.add_argument("--methods", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument(
        "--batch-size", type=int, default=8, help="forget sequences, and as many retain sequences"
    )
    parser.add_argument("--updates", type=int, default=30, help="timed updates per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", type=Path, help="checkout of OpenUnlearning")
    parser.add_argument(
        "--profile", action="store_true", help="instead: where the time of our updates goes (CPU)"
    )
    given = parser.parse_args()
    given.dtype = given.dtype or (
        "bfloat16" if given.device.startswith("cuda") and given.config else "float32"
    )
    return given


def main() -> None:
    """Compare losses, measure, print; or profile."""
    given = arguments()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    workspace = random_weights(given) if given.config else demo(given.model, given.device)
    print(machine(given.device), flush=True)
    recorders: dict[str, Callable[..., None]] = {"plain": plain}
    peer = load_peer(given.peer) if given.peer else None
    if transformers.utils.is_accelerate_available():
        recorders = {"Trainer": with_trainer} | recorders
        if peer:
            recorders["peer"] = partial(with_trainer, peer=peer)
        else:
            print("no --peer: OpenUnlearning's own loss is not measured")
    else:
        print("accelerate is not installed: without it there is no Trainer, and it is left out")
    for method in given.methods:
        task = Task(workspace, method, given.batch_size)
        if given.profile:
            profile(task, given.updates)
            continue
        # GradDiff has no ascent alone, and its KL is a mean over padding: another loss, so only its
        # time is compared.
        theirs = {
            name: run for name, run in recorders.items() if name != "peer" or method != "ascent"
        }
        checked = {name: run for name, run in theirs.items() if name != "peer" or method != "kl"}
        check_losses(task, checked, 1e-3 if given.dtype == "float32" else 5e-2)
        # The floor's products are those of weights that are all trained.
        floors = {} if given.lora else {"floor": floor}
        costs = measure(task, {"ours": ours} | theirs | floors, given.updates, given.rounds)
        show(task, costs)
        if given.json:
            record(given.json, given, method, costs)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
