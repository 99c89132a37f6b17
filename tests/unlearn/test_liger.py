"""Liger's kernels against the fused sums in plain PyTorch: value and every gradient.

Each check is a process of its own: whether Triton interprets its kernels on the CPU or compiles
them is settled when Liger is imported.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from ray_unlearn.spec.errors import UserError
from ray_unlearn.unlearn import head as plain_torch
from ray_unlearn.unlearn import liger

N, H = 50, 16
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "autocast": 3e-2}
"""Of the norm of the difference, relative: sums in another order; bfloat16 has 8 bits."""

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("liger_kernel", "triton")),
    reason="Liger Kernel is not installed",
)


def check(device: str, precision: str, vocabulary: int) -> None:
    """In the child process."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    for quantity, bias, trained in [
        ("logprob", False, True), ("logprob", True, True), ("logprob", False, False),
        ("kl", False, True), ("kl", True, True), ("kl", False, False),
    ]:  # fmt: skip
        torch.manual_seed(1)
        head, reference_head = (
            nn.Linear(H, vocabulary, bias=bias).to(device, dtype) for _ in range(2)
        )
        head.requires_grad_(trained)
        reference_head.requires_grad_(False)
        hidden = (2 * torch.randn(N, H)).to(device, dtype).requires_grad_()
        reference = (2 * torch.randn(N, H)).to(device, dtype)
        targets = torch.randint(0, vocabulary, (N,)).to(device)
        results = []
        for module in (liger, plain_torch):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "autocast"):
                if quantity == "kl":
                    value = module.kl_sum(hidden, head, reference, reference_head)
                else:
                    value = module.logprob_sum(hidden, head, targets)
            assert value.dtype == torch.float32
            assert value.shape == ()
            inputs = [hidden, *(p for p in head.parameters() if p.requires_grad)]
            results.append([value.detach(), *torch.autograd.grad(-0.25 * value, inputs)])
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            error = ((mine - theirs).float().norm() / theirs.float().norm()).item()
            assert error <= TOLERANCE[precision], (quantity, bias, trained, error)
    no_rows(device, vocabulary)
    only_the_head(device, vocabulary)


def no_rows(device: str, vocabulary: int) -> None:
    """A rank whose sequences are all padding."""
    head = nn.Linear(H, vocabulary, bias=False, device=device)
    hidden = torch.zeros(0, H, device=device, requires_grad=True)
    for value in (
        liger.liger_logprob_sum(hidden, head, torch.zeros(0, dtype=torch.int64, device=device)),
        liger.liger_kl_sum(hidden, head, hidden.detach(), head),
    ):
        value.backward()
        assert value.item() == 0
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def only_the_head(device: str, vocabulary: int) -> None:
    """Hidden states without gradient: the head gets its own all the same."""
    head = nn.Linear(H, vocabulary, bias=False, device=device)
    hidden, targets = (
        torch.randn(N, H, device=device),
        torch.zeros(N, dtype=torch.int64, device=device),
    )
    (mine,) = torch.autograd.grad(liger.liger_logprob_sum(hidden, head, targets), [head.weight])
    (theirs,) = torch.autograd.grad(plain_torch.logprob_sum(hidden, head, targets), [head.weight])
    assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def run(device: str, precision: str, *vocabularies: int, **environment: str) -> None:
    child = subprocess.run(
        [sys.executable, __file__, device, precision, *map(str, vocabularies)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert child.returncode == 0, child.stderr


@installed
@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_interpreted_kernels_equal_the_fused_sums(precision: str) -> None:
    """Neither is a power of two; Liger makes 2 chunks of N rows with the one, 13 with the other."""
    run("cpu", precision, 40, 300, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@installed
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_compiled_kernels_equal_the_fused_sums(precision: str) -> None:
    run("cuda", precision, 40, 300, 50_257)


def test_without_a_gpu_the_remedy_is_the_fused_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match="need a CUDA device, this one is cpu; use `head: fused`"):
        liger.liger_logprob_sum(
            torch.zeros(1, H), nn.Linear(H, 2), torch.zeros(1, dtype=torch.int64)
        )


def test_without_liger_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'ray-unlearn\[liger\]'"):
        liger.kernels(torch.device("cpu"))


if __name__ == "__main__":
    for size in sys.argv[3:]:
        check(sys.argv[1], sys.argv[2], int(size))
