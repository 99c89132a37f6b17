"""The files of a model, checked before anything is loaded from them."""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from ray_unlearn.demo import demo_model, demo_retrained
from ray_unlearn.spec.errors import UserError, nearest
from ray_unlearn.spec.given_file import given_bytes, json_value
from ray_unlearn.spec.model_spec import ModelSpec
from ray_unlearn.unlearn.hub_ids import check_hub_id

ADDRESS = re.compile(r"https?:/+[^/]+/+([\w.-]+/[\w.-]+)")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
LARGEST_HEADER = 10**8
"""Bytes of a safetensors header that its readers accept."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
    "sentencepiece.bpe.model", "tokenizer_config.json",
)  # fmt: skip


def check_source(spec: ModelSpec) -> None:
    """Refuse a model that cannot be loaded, before anything expensive starts.

    Raises:
        UserError: a local folder without config or weights, a weight file that is missing or
            damaged, a hub id that is neither cached nor on the hub, a missing GGUF file, an unknown
            demo domain or model seed, the model's own seed among `exact_retrain_seeds`, adapters
            without PEFT.
    """
    if spec.lora is not None and find_spec("peft") is None:
        raise UserError("model.lora: needs PEFT: pip install 'ray-unlearn[lora]'")
    sources = [("source", spec.source), ("exact_retrain", spec.exact_retrain)]
    sources += [("exact_retrain_seeds", source) for source in spec.exact_retrain_seeds]
    for field, source in sources:
        if source is None:
            continue
        if source.startswith("demo:"):
            if field == "exact_retrain_seeds":
                _check_another_seed(source, spec.source)
            elif field == "exact_retrain":
                raise UserError(_not_retrained(source))
            else:
                _check_demo(source, field)
            continue
        if address := ADDRESS.match(source):
            raise UserError(
                f"model.{field}: {source!r} is an address; write the model's id, "
                f"{address[1]!r}, or a folder"
            )
        folder = Path(source)
        if not folder.is_absolute() and not source.startswith("."):
            if not HUB_ID.fullmatch(source):
                raise UserError(
                    f"model.{field}: {source!r} is neither a folder that exists nor a hub id "
                    "(`owner/name`); check its spelling"
                )
            own = field == "source"
            file = (spec.gguf_file if own else None) or "config.json"
            check_hub_id(source, spec.revision if own else None, file, f"model.{field}")
            continue
        if folder.is_file():
            raise UserError(f"model.{field}: {folder} is a file; name its folder, {folder.parent}")
        if not folder.is_dir():
            raise UserError(f"model.{field}: no such folder: {folder}{_beside(folder)}")
        if spec.gguf_file is not None:
            if not (folder / spec.gguf_file).is_file():
                raise UserError(f"model.gguf_file: no such file: {folder / spec.gguf_file}")
        elif (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise UserError(
                f"model.{field}: {folder} has adapters alone; merge them into their model first "
                "(PEFT's `merge_and_unload`), and save that with `save_pretrained`"
            )
        elif not (folder / "config.json").is_file():
            raise UserError(
                f"model.{field}: {folder} has no config.json; is it a Hugging Face model folder?"
            )
        else:
            check_weight_files(folder, f"model.{field}")


def _check_demo(source: str, field: str) -> None:
    try:
        demo_model(source)
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith("model.") else f"model.{field}: {said}") from None


def _not_retrained(source: str) -> str:
    """Why a demo model's name is none of a retrained one."""
    domain = source.removeprefix("demo:").partition("#")[0].partition("@")[0]
    return (
        f"model.exact_retrain: {source!r} is no retrained model; leave it out, a demo model as "
        f"`model.source` brings its own, or name `exact_retrain_seeds: [demo:{domain}@0]`"
    )


def _beside(folder: Path) -> str:
    """The nearest name beside a folder that is not there."""
    if not folder.parent.is_dir():
        return ""
    hint = nearest(folder.name, (other.name for other in folder.parent.iterdir()))
    return hint if "did you mean" in hint else ""


def _check_another_seed(source: str, vanilla: str) -> None:
    """Refuse `demo:<domain>@<seed>` where the vanilla model's own retrained one has that seed."""
    which = demo_retrained(source)
    if vanilla.startswith("demo:") and which == demo_model(vanilla):
        raise UserError(
            f"model.exact_retrain_seeds: {source!r} is the retrained model that `{vanilla}` "
            "brings; name another seed in `demo:<domain>@<seed>`"
        )


def check_weight_files(folder: Path, where: str) -> None:
    """Refuse weight files that are missing, cut short, or no weights, from their headers alone.

    Args:
        folder: of a model.
        where: the study file's key that names it.

    Raises:
        UserError: the file, what is wrong with it, and what to do.
    """
    index = folder / INDEX
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file() and not (folder / "model.safetensors").is_file():
        files = [folder / name for name in sorted(_indexed(index, where))]
    if not files:
        raise UserError(
            f"{where}: {folder} has no weights (*.safetensors); save the model with "
            "`save_pretrained`, or name a `gguf_file`"
        )
    for file in files:
        if problem := _problem(file):
            raise UserError(f"{where}: {file} {problem}")


def check_tokenizer_files(source: str) -> None:
    """Refuse a local folder without any file of a tokenizer.

    Raises:
        UserError: there is none.
    """
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"model.source: {folder} has no tokenizer ({TOKENIZER_FILES[0]}); save that of the "
            "model it comes from there, with `save_pretrained`"
        )


def check_vocabulary(largest: int, vocabulary: int) -> None:
    """Refuse tokens that a model has no embedding for.

    Args:
        largest: token id of the tokenizer.
        vocabulary: rows of the model's embedding.

    Raises:
        UserError: with both numbers.
    """
    if largest >= vocabulary:
        raise UserError(
            f"model.source: tokenizer has token id {largest}, but the model's vocabulary is "
            f"{vocabulary}; use the model's own tokenizer, or save the model after "
            "`resize_token_embeddings`"
        )


def _indexed(index: Path, where: str) -> Iterable[str]:
    try:
        found = {str(name) for name in json_value(given_bytes(index))["weight_map"].values()}
        if outside := [name for name in found if name.startswith("/") or ".." in name.split("/")]:
            raise ValueError(f"it names {outside[0]!r}, which is outside the model's folder")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: {index} cannot be read ({type(error).__name__}: {error}); download it again"
        ) from None


def _problem(file: Path) -> str | None:
    """What is wrong with a safetensors file, and what to do; None where it is whole.

    It is 8 bytes with the length of a header, the header in JSON, and the tensors' bytes.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as content:
            begin = content.read(8)
            if (begin + content.read(len(POINTER))).startswith(POINTER):
                return "is a git-lfs pointer, not the weights: run `git lfs pull` in its folder"
            length = int.from_bytes(begin, "little")
            if len(begin) < 8 or length > min(LARGEST_HEADER, size):
                return f"is no safetensors file ({size} bytes); download it again"
            content.seek(8)
            tensors = json_value(content.read(length))
        ends = [tensor["data_offsets"][1] for n, tensor in tensors.items() if n != "__metadata__"]
        whole = 8 + length + max(map(int, ends), default=0)
    except FileNotFoundError:
        return f"is missing, but {INDEX} names it; download it"
    except (ArithmeticError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__}); download it again"
    if size != whole:
        return f"has {size} bytes, its header says {whole}: it was cut short; download it again"
    return None
