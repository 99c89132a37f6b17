"""Try architectures at tiny size with random weights, and write docs/models.md.

Each is used as a study uses a model: planned, opened with padded and with packed data, measured,
trained for one update, saved and loaded again. What it must give is computed by the model's own
forward pass, one document at a time.

    python scripts/architectures.py
"""

import os
import random
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.hyperparameters import Hyperparameters
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.schema import Row
from ray_unlearn.unlearn.admission import admission
from ray_unlearn.unlearn.single_trial import Single
from ray_unlearn.unlearn.token_set import TokenSet

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
VOCABULARY = 300
SAME = 1e-5
"""Largest difference of NLLs, nats/token, that is rounding."""
METHOD = "ascent_kl_in_distribution"
SPLITS = (
    "forget", "approximate", "retain", "retain_heldout", "general_retain", "general_evaluation",
)  # fmt: skip
WORDS = (
    "river", "stone", "lamp", "garden", "winter", "letter", "silver", "market", "window", "evening",
)  # fmt: skip

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
NAMED_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SCAN = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
WINDOW = {"sliding_window": 4}
"""Shorter than a document."""
TABLE = {"max_position_embeddings": 128}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A tiny model: its `model_type` in transformers, and what its config is given."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"


ARCHITECTURES = {
    "Llama": Architecture("llama", GROUPED),
    "Llama 4": Architecture(
        "llama4_text", HEADS | {"intermediate_size_mlp": 48, "num_local_experts": 4}
    ),
    "Mistral (sliding window)": Architecture("mistral", GROUPED | WINDOW),
    "Mixtral": Architecture("mixtral", GROUPED | EXPERTS),
    "Qwen 2": Architecture("qwen2", GROUPED),
    "Qwen 2 MoE": Architecture(
        "qwen2_moe", GROUPED | NAMED_EXPERTS | {"shared_expert_intermediate_size": 16}
    ),
    "Qwen 3": Architecture("qwen3", HEADS),
    "Qwen 3 MoE": Architecture("qwen3_moe", HEADS | NAMED_EXPERTS),
    "Qwen 3 Next": Architecture(
        "qwen3_next",
        HEADS | NAMED_EXPERTS
        | {
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
    ),
    "Gemma": Architecture("gemma", HEADS),
    "Gemma 2": Architecture("gemma2", HEADS | WINDOW | {"final_logit_softcapping": 3.0}, "eager"),
    "Gemma 2 (sdpa)": Architecture("gemma2", HEADS | WINDOW),
    "Gemma 3": Architecture("gemma3_text", HEADS | WINDOW),
    "RecurrentGemma": Architecture(
        "recurrent_gemma",
        SHAPE
        | {
            "num_hidden_layers": 3, "lru_width": 32, "intermediate_size": 96,
            "attention_window_size": 8, "logits_soft_cap": 3.0,
        },
    ),
    "Phi": Architecture("phi", SHAPE | {"intermediate_size": 48}),
    "Phi 3": Architecture("phi3", GROUPED | {"pad_token_id": 0}),
    "Phi MoE": Architecture("phimoe", GROUPED | EXPERTS),
    "GPT-2": Architecture("gpt2", GPT | {"n_positions": 128}),
    "GPT-Neo (local attention)": Architecture(
        "gpt_neo",
        {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        "eager",
    ),
    "GPT-J": Architecture("gptj", GPT | {"rotary_dim": 4}, "eager"),
    "GPT-NeoX, Pythia": Architecture("gpt_neox", SHAPE | {"intermediate_size": 48}),
    "GPT-OSS": Architecture("gpt_oss", HEADS | EXPERTS | WINDOW, "eager"),
    "OPT": Architecture("opt", SHAPE | TABLE | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BLOOM": Architecture("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "eager"),
    "MPT": Architecture("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4}, "eager"),
    "Falcon": Architecture("falcon", SHAPE),
    "Falcon (ALiBi)": Architecture("falcon", SHAPE | {"alibi": True}),
    "Falcon H1": Architecture("falcon_h1", GROUPED | SCAN | {"mamba_d_ssm": 64}),
    "StableLM": Architecture("stablelm", GROUPED),
    "StarCoder 2": Architecture("starcoder2", GROUPED),
    "GPT-BigCode": Architecture("gpt_bigcode", GPT | {"n_positions": 128}),
    "CodeGen": Architecture("codegen", GPT | {"rotary_dim": 4, "n_positions": 128}, "eager"),
    "OLMo 2": Architecture("olmo2", GROUPED),
    "OLMo 3 (sliding window)": Architecture("olmo3", GROUPED | WINDOW),
    "OLMoE": Architecture("olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "SmolLM 3": Architecture("smollm3", GROUPED | {"pad_token_id": 0}),
    "Cohere": Architecture("cohere", GROUPED),
    "Cohere 2 (sliding window)": Architecture("cohere2", HEADS | WINDOW),
    "Granite": Architecture("granite", GROUPED | {"logits_scaling": 8.0}),
    "Granite MoE hybrid": Architecture(
        "granitemoehybrid",
        GROUPED | EXPERTS | SCAN
        | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
    ),
    "DeepSeek V3": Architecture(
        "deepseek_v3",
        GROUPED | LATENT
        | {
            "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1,
        },
    ),
    "GLM 4": Architecture("glm4", HEADS | {"pad_token_id": 0}),
    "EXAONE 4": Architecture("exaone4", HEADS | WINDOW),
    "Nemotron": Architecture("nemotron", HEADS),
    "nanochat": Architecture("nanochat", GROUPED | {"final_logit_softcapping": 3.0}),
    "JetMoE": Architecture(
        "jetmoe",
        SHAPE | EXPERTS | {"kv_channels": 8, "num_key_value_heads": 4, "intermediate_size": 48},
    ),
    "LFM 2": Architecture("lfm2", GROUPED | {"layer_types": ["conv", "full_attention"]}),
    "Bamba": Architecture("bamba", GROUPED | SCAN | {"attn_layer_indices": [1]}),
    "Jamba": Architecture(
        "jamba",
        GROUPED
        | {
            "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
            "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
            "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        },
    ),
    "Mamba": Architecture(
        "mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "eager"
    ),
    "Mamba 2": Architecture(
        "mamba2",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8,
            "head_dim": 8, "n_groups": 1, "chunk_size": 16,
        },
        "eager",
    ),
    "RWKV": Architecture(
        "rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, "eager"
    ),
    "xLSTM": Architecture(
        "xlstm",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 4},
        "eager",
    ),
    "BERT": Architecture("bert", SHAPE | {"intermediate_size": 48}),
    "BERT as a decoder": Architecture(
        "bert", SHAPE | {"intermediate_size": 48, "is_decoder": True}
    ),
}  # fmt: skip

HEAD = """# Models

Any causal language model of transformers can be the model of a study, if it passes what is tried
before it is used: its weight files, its attention, the table of its positions, its tokenizer, what
it does to its logits (scale, soft cap), and how documents may share a batch with it. `plan`,
`doctor STUDY` and the start of a study make the same checks and try the architecture with random
weights; a lane tries the model itself. Each refuses with the reason and what to write instead.

| check | refused, or said |
|---|---|
| model files | folder, hub id, config or weights missing; weights cut short; git-lfs pointers |
| kind of model | not causal; code of its own; the parameters that a token of a mixture uses |
| tokenizer | none, or ids that the embedding does not have |
| context length | sequences beyond a table of positions; beyond the trained context it is a note |
| attention | one that the architecture does not have (set `model.attention: eager`) |
| packing, logits | whether packed documents stay apart; scale and soft cap of logits |
| FLOPs of updates | counted, or estimated and why |
| CPUs, GPUs, memory, disk | what is wanted and what is there, with the mildest change that fits |

The table is made by `python scripts/architectures.py` and checked by
`tests/unlearn/test_architectures.py`: each architecture is built tiny with random weights and used
as a study uses a model.

- layout: how documents are put in a batch, of padded and of packed data. *by document*: one row of
  real tokens without padding, attention runs document by document (the fastest); *stored*: the
  sequences as they are; *apart*: a padded row for each document, for models that do not keep packed
  documents apart.
- same NLL: of the forget set, padded and packed, as the model's own forward pass gives for one
  document alone, within 1e-5 nats/token.
- reloads: the model after one update, saved and loaded by transformers, has the NLL that the study
  measured.
- FLOPs estimated: they cannot be counted for this architecture, and the result table says so.

| architecture | `model_type` | `model.attention` | a trial | layout | same NLL | reloads | |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Tried:
    """What came of one architecture; NLLs are of the forget set, nats/token."""

    name: str
    refused: str = ""
    """Why, in the words that people see."""
    layouts: tuple[str, str] = ("", "")
    """Of padded and of packed data."""
    estimated: bool = False
    """Whether the cost of its updates is estimated."""
    alone: float = 0.0
    padded: float = 0.0
    packed: float = 0.0
    context: float = 0.0
    """How much the NLL changes where the documents are read as one: what a leak would do."""
    outcome: str = ""
    trained: float = 0.0
    reloaded: float = 0.0


def tried(name: str, folder: Path) -> Tried:
    """Plan, open, measure, train, save and reload an architecture in an empty folder."""
    architecture = ARCHITECTURES[name]
    spec = _study(architecture, folder)
    try:
        planned = admission(spec, looks_at_data=False)
        planned.refuse()
        single = Single(spec)
    except UserError as error:
        return Tried(name, refused=str(error).replace(str(folder / "model"), "model"))
    packing = spec.data.model_copy(update={"layout": "pack"})
    packed = Single(spec.model_copy(update={"data": packing}))
    rows: list[Row] = []
    baselines = single.baselines()
    point = Hyperparameters(learning_rate=1e-3, steps=1, batch_size=4)
    ended = single.run(spec.trial_config(point, METHOD, 0, single.context), baselines, rows.append)
    single.save(folder / "trained")
    forget = single.workspace.data.splits["forget"]
    attention = architecture.attention
    alone, joined = _by_itself(folder / "model", attention, forget)
    return Tried(
        name,
        layouts=(single.workspace.layout, packed.workspace.layout),
        estimated=planned.plan is not None and bool(planned.plan.estimated),
        alone=alone,
        padded=baselines.vanilla["forget_nll"],
        packed=packed.baselines().vanilla["forget_nll"],
        context=abs(joined - alone),
        outcome=ended.status,
        trained=rows[-1]["forget_nll"],
        reloaded=_by_itself(folder / "trained", attention, forget)[0],
    )


def _by_itself(folder: Path, attention: str, tokens: TokenSet) -> tuple[float, float]:
    """NLL of a model's own logits, one document at a time, and of pairs read as one document."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    rows = [
        torch.from_numpy(ids[owner >= 0]).long()
        for ids, owner in zip(tokens.input_ids, tokens.document, strict=True)
    ]
    alone, joined = [], []
    for before, row in zip(rows[-1:] + rows[:-1], rows, strict=True):
        alone.append(_token_losses(model, row))
        joined.append(_token_losses(model, torch.cat([before, row]))[len(before) :])
    return float(torch.cat(alone).mean()), float(torch.cat(joined).mean())


@torch.no_grad()
def _token_losses(model: Any, row: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=row[None], use_cache=False).logits[0, :-1].double()
    losses: torch.Tensor = torch.nn.functional.cross_entropy(logits, row[1:], reduction="none")
    return losses


def _study(architecture: Architecture, folder: Path) -> StudySpec:
    """A study of invented words, with the architecture's model and a tokenizer in its folder."""
    draw = random.Random(0)
    texts = {
        name: [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) + f" {i}" for i in range(4)]
        for name in SPLITS
    }
    for name, documents in texts.items():
        (folder / name).mkdir()
        for number, text in enumerate(documents):
            (folder / name / f"{number}.txt").write_text(f"{name} {text}")
    _save_model(architecture, folder / "model")
    content = {
        "name": "architecture",
        "model": {"source": "./model", "attention": architecture.attention},
        "data": {
            "domain": "invented words", "sequence_length": 64,
            "splits": {name: {"path": name} for name in SPLITS},
        },
        "methods": [METHOD],
        "search": {"sampler": "random", "trials_per_method": 1},
        "evaluation": {"at": [1], "batch_size": 8},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return load_study(folder / "study.yaml")


def _save_model(architecture: Architecture, folder: Path) -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        WORDS, vocab_size=VOCABULARY, special_tokens=["<eos>", "<pad>"], show_progress=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<eos>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    values = {"vocab_size": VOCABULARY} | architecture.values
    config = AutoConfig.for_model(architecture.kind, **values)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():  # so that tokens heed their context, and logits are large
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.save_pretrained(folder)


def page(found: Iterator[Tried]) -> str:
    """The table in Markdown, with what its columns mean."""
    return HEAD + "".join(line(one) for one in found)


def line(one: Tried) -> str:
    """The table's line on one architecture."""
    architecture = ARCHITECTURES[one.name]
    cells = [one.name, f"`{architecture.kind}`", f"`{architecture.attention}`"]
    if one.refused:
        cells += ["refused", "", "", "", one.refused.removeprefix("model.source: ")]
    else:
        cells += [
            one.outcome,
            " / ".join(layout.replace("_", " ") for layout in one.layouts),
            _same(one.padded, one.alone) + " / " + _same(one.packed, one.alone),
            _same(one.reloaded, one.trained),
            "FLOPs estimated" if one.estimated else "",
        ]
    return f"| {' | '.join(cells)} |\n"


def _same(found: float, expected: float) -> str:
    return "yes" if abs(found - expected) <= SAME else f"off by {abs(found - expected):.2g}"


def every() -> Iterator[Tried]:
    """All architectures, each in a folder of its own."""
    for name in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            yield tried(name, Path(folder))


def main() -> None:
    """Write the page."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RAY_UNLEARN_CACHE"] = cache
        PAGE.write_text(page(every()), encoding="utf-8")


if __name__ == "__main__":
    main()
