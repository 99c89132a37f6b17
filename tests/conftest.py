"""A tiny real model and real text files: random weights, so runs take seconds, but every component
is the real one."""

import argparse
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads torch

import pytest
from tiny import SIZES, study_file

if TYPE_CHECKING:
    from ray_unlearn.spec.study_spec import StudySpec

ORDER = (
    "cli", "execution", "api", "unlearn", "simulation", "hostile", "analysis", "cluster", "store",
)  # fmt: skip
"""Folders in the order of what they cost, so that two processes finish at about the same time;
first the one that asserts that it does not start Ray, while no process has one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: with `-n 2 --dist loadfile --no-loadscope-reorder` each file
    goes to the next process that is free."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, str]:
    folder = item.path.parent.name
    return ORDER.index(folder) if folder in ORDER else len(ORDER), str(item.path)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tokenised test data out of the user's cache, but not what takes minutes to make or is
    downloaded."""
    folder = tmp_path_factory.mktemp("cache")
    users = Path(os.environ.get("RAY_UNLEARN_CACHE") or Path.home() / ".cache" / "ray_unlearn")
    for name in ("demo_world", "wheels"):
        (users / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(users / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_UNLEARN_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One local Ray for all tests that need one: starting it costs more than most of them.

    Ended by disconnecting, never by name.
    """
    from ray_unlearn.execution.ray_runtime import connected
    from ray_unlearn.spec.operations import Operations

    with connected(None, Operations(lanes=2)):
        yield


@pytest.fixture(scope="session")
def text_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One JSONL file per split: passages of 300 characters of a module of the standard library,
    each used once."""
    folder = tmp_path_factory.mktemp("text")
    source = inspect.getsource(argparse)
    start = 0
    for name, size in SIZES.items():
        passages = [source[start + 300 * i : start + 300 * (i + 1)] for i in range(size)]
        start += 300 * size
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) for i, text in enumerate(passages)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, text_files: Path) -> Path:
    """A Llama of two layers and 32 dimensions with random weights, and a byte-level BPE tokenizer
    of 300 tokens."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train(
        [str(text_files / "retain.jsonl")],
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        show_progress=False,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<eos>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_study(tmp_path: Path, text_files: Path, tiny_model: Path) -> "StudySpec":
    """The study of `tiny.study_file`, loaded."""
    from ray_unlearn.spec.study_file import load_study

    return load_study(study_file(tmp_path, text_files, tiny_model))
