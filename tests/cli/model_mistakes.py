"""Mistakes in a model's folder, and in how a study names it."""

import json
import shutil

from mistake import Mistake, Workplace, key, keys, model_config, model_file

WEIGHTS = "model.safetensors"


def _without_tokenizer(place: Workplace) -> None:
    for path in place.model.glob("token*"):
        path.unlink()


def _without_weights(place: Workplace) -> None:
    (place.model / WEIGHTS).unlink()


def _pickle(place: Workplace) -> None:
    (place.model / WEIGHTS).rename(place.model / "pytorch_model.bin")


def _larger_tokenizer(place: Workplace) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.model)
    tokenizer.add_tokens(["one more", "and another"])
    tokenizer.save_pretrained(place.model)


def _saved(kind: str):
    """Another kind of model in the folder, by the name of its config in transformers."""

    def change(place: Workplace) -> None:
        import transformers

        getattr(transformers, kind)().save_pretrained(place.model)

    return change


def _fewer_tensors(place: Workplace) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(place.model / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, place.model / WEIGHTS, metadata={"format": "pt"})


def _other_shapes(place: Workplace) -> None:
    """The config of another size than the weights."""
    model_config(intermediate_size=64)(place)


def _nan(place: Workplace) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(place.model / WEIGHTS)
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, place.model / WEIGHTS, metadata={"format": "pt"})


def _adapters_alone(place: Workplace) -> None:
    (place.model / "config.json").unlink()
    (place.model / WEIGHTS).rename(place.model / "adapter_model.safetensors")
    (place.model / "adapter_config.json").write_text("{}")


def _index(place: Workplace) -> None:
    (place.model / WEIGHTS).rename(place.model / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"weight_map": names}
    (place.model / "model.safetensors.index.json").write_text(json.dumps(index))


def _gpt2(place: Workplace) -> None:
    """A GPT-2 of 32 positions, for sequences of 48 tokens."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(place.model)


def _other_retrained(place: Workplace) -> None:
    shutil.copytree(place.model, place.folder / "retrained")
    path = place.folder / "retrained" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))
    place.content["model"]["exact_retrain"] = "retrained"


def _file_for_folder(place: Workplace) -> None:
    place.content["model"]["source"] = f"model/{WEIGHTS}"


def _empty(place: Workplace) -> None:
    (place.folder / "other").mkdir()
    place.content["model"]["source"] = "other"


def _nothing_to_forget(place: Workplace) -> None:
    """Noise, which no model can have learnt; unseen documents are code."""
    import random

    chance = random.Random(0)
    letters = "".join(map(chr, range(33, 127)))
    texts = ["".join(chance.choices(letters, k=300)) for _ in range(24)]
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    place.data().write_text("\n".join(lines))
    place.content["model"]["source"] = "demo:shakespeare"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SOURCE = "model.source"

MISTAKES = [
    Mistake("a model's folder misspelt", key(SOURCE, "./modle"), (SOURCE, "did you mean 'model'")),
    Mistake(
        "a folder misspelt beside others", key(SOURCE, "models/llama"), (SOURCE, "models/llama")
    ),
    Mistake("a path beyond a hub id", key(SOURCE, "a/b/c"), (SOURCE, "no such folder")),
    Mistake(
        "a folder with a slash at its end",
        key(SOURCE, "modle/"),
        (SOURCE, "no such folder", "did you mean 'model'"),
    ),
    Mistake(
        "a model in a home that is not there",
        key(SOURCE, "~/nowhere/model"),
        (SOURCE, "no such folder"),
    ),
    Mistake(
        "a hub id that is nowhere",
        key(SOURCE, "nobody-at-all/no-such-model-1"),
        (SOURCE, "is no folder", "check its spelling"),
    ),
    Mistake(
        "an address",
        key(SOURCE, "https://huggingface.co/openai-community/gpt2"),
        (SOURCE, "https://huggingface.co/openai-community/gpt2", "openai-community/gpt2"),
    ),
    Mistake(
        "a demo that is none",
        key(SOURCE, "demo:pyton"),
        ("model.source", "unknown demo domain 'pyton'", "stdlib"),
    ),
    Mistake("no source", key(SOURCE, ""), ("study.yaml", SOURCE)),
    Mistake("a file for the folder", _file_for_folder, (SOURCE, "model.safetensors", "folder")),
    Mistake("an empty folder of a model", _empty, (SOURCE, "no config.json")),
    Mistake("adapters alone", _adapters_alone, (SOURCE, "adapter", "merge")),
    Mistake("no weights", _without_weights, (SOURCE, "has no weights", "save_pretrained")),
    Mistake("weights as pickle alone", _pickle, (SOURCE, "has no weights", "save_pretrained")),
    Mistake(
        "weights cut short",
        model_file(WEIGHTS, lambda b: b[: len(b) // 2]),
        (SOURCE, WEIGHTS, "download it again"),
    ),
    Mistake(
        "a git-lfs pointer for weights",
        model_file(WEIGHTS, lambda b: POINTER),
        (SOURCE, WEIGHTS, "git lfs pull"),
    ),
    Mistake(
        "a web page for weights",
        model_file(WEIGHTS, lambda b: b"<html></html>"),
        (SOURCE, WEIGHTS, "download it again"),
    ),
    Mistake(
        "empty weights", model_file(WEIGHTS, lambda b: b""), (SOURCE, WEIGHTS, "download it again")
    ),
    Mistake(
        "a shard that is missing",
        _index,
        (SOURCE, "model-00002-of-00002.safetensors is missing", "download it"),
    ),
    Mistake(
        "a tensor that is missing",
        _fewer_tensors,
        (SOURCE, "up_proj", "save_pretrained"),
        loads=True,
    ),
    Mistake("a config of another size", _other_shapes, (SOURCE, "size"), loads=True),
    Mistake(
        "weights that are no numbers",
        _nan,
        (SOURCE, "model.norm.weight", "not finite", "download it again"),
        loads=True,
    ),
    Mistake(
        "a config that is cut", model_file("config.json", lambda b: b[:40]), (SOURCE, "config")
    ),
    Mistake("a config without its kind", model_config(model_type=None), (SOURCE, "model_type")),
    Mistake("a kind that is too new", model_config(model_type="llama9"), (SOURCE, "llama9")),
    Mistake("BERT", _saved("BertConfig"), (SOURCE, "no causal language model")),
    Mistake("T5", _saved("T5Config"), (SOURCE, "t5", "next token")),
    Mistake("an image model", _saved("ViTConfig"), (SOURCE, "vit", "next token")),
    Mistake(
        "code of its own",
        model_config(model_type="x", auto_map={"AutoConfig": "x.X"}),
        (SOURCE, "code of its own"),
    ),
    Mistake("no tokenizer", _without_tokenizer, (SOURCE, "no tokenizer", "save_pretrained")),
    Mistake(
        "a tokenizer that is cut",
        model_file("tokenizer.json", lambda b: b[:100]),
        (SOURCE, "no tokenizer for"),
    ),
    Mistake(
        "a tokenizer larger than the embedding",
        _larger_tokenizer,
        (SOURCE, "vocabulary", "resize_token_embeddings"),
    ),
    Mistake("more tokens than positions", _gpt2, ("data.sequence_length", "32", "48")),
    Mistake(
        "a GGUF file that is not there",
        key("model.gguf_file", "x.gguf"),
        ("model.gguf_file", "no such file"),
    ),
    Mistake(
        "a revision of a folder",
        key("model.revision", 5),
        ("study.yaml", "model.revision", "quotes"),
    ),
    Mistake(
        "a demo's model as the retrained one",
        key("model.exact_retrain", "demo:latex"),
        ("model.exact_retrain", "'demo:latex' is no retrained model", "demo:latex@0"),
    ),
    Mistake(
        "a retrained model that is not there",
        key("model.exact_retrain", "./gone"),
        ("model.exact_retrain", "no such folder"),
    ),
    Mistake(
        "a retrained model of another size", _other_retrained, ("model.exact_retrain", "config")
    ),
    Mistake(
        "FlashAttention that is not installed",
        key("model.attention", "flash_attention_2"),
        ("model.attention", "sdpa"),
    ),
    Mistake(
        "adapters on layers that it has not",
        keys(model__lora={"rank": 4, "targets": ["qproj"]}),
        ("model.lora", "qproj"),
        loads=True,
    ),
]

MISTAKES += [
    Mistake(
        "nothing to forget",
        _nothing_to_forget,
        ("nothing to forget", "swapped"),
        ("plan", "study.yaml"),
        loads=True,
    ),
]
