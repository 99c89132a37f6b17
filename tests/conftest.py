"""A tiny real model and real text files: random weights, so runs take seconds, but every component
is the real one."""

import argparse
import inspect
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tiny import SIZES, study_file

from ray_unlearn.spec.study_spec import StudySpec, load_study

torch.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """A machine that is slow and has so much time only begins no test after TESTS_UNTIL (Unix
    seconds), and says so."""
    if time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):
        pytest.skip("no time is left (TESTS_UNTIL)")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised test data do not go into the user's cache; demo worlds stay there, they take
    minutes to build."""
    from ray_unlearn.unlearn import data

    folder = tmp_path_factory.mktemp("tokens")
    data.token_cache = lambda: folder  # type: ignore[assignment]


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
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_study(tmp_path: Path, text_files: Path, tiny_model: Path) -> StudySpec:
    """The study above, loaded."""
    return load_study(study_file(tmp_path, text_files, tiny_model))
