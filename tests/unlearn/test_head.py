"""The fused sums against the plain path: value and every gradient, in float32, bfloat16 and under
autocast."""

import pytest
import torch
from torch import nn

from ray_unlearn.unlearn.head import distillation_sum, function_of_logprobs, kl_sum, logprob_sum
from ray_unlearn.unlearn.logit_map import CappedHead
from ray_unlearn.unlearn.logprobs import distillation, kl_from_reference, target_logprobs

N, H, V = 50, 16, 40


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHUNK_ELEMENTS", "CUDA_CHUNK_ELEMENTS"):
        monkeypatch.setattr(f"ray_unlearn.unlearn.logprobs.{name}", V * 7)
    monkeypatch.setattr("ray_unlearn.unlearn.logprobs.SMALLEST_CHUNK", 1)


def _inputs(
    dtype: torch.dtype, bias: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, nn.Linear, torch.Tensor, torch.Tensor, nn.Linear]:
    torch.manual_seed(1)
    head, reference_head = (nn.Linear(H, V, bias=bias).to(device, dtype) for _ in range(2))
    hidden = torch.randn(N, H, dtype=dtype).to(device).requires_grad_()
    return (
        hidden,
        head,
        torch.randint(0, V, (N,)).to(device),
        torch.randn(N, H, dtype=dtype).to(device),
        reference_head.requires_grad_(False),
    )


def _result(value: torch.Tensor, hidden: torch.Tensor, head: nn.Linear) -> list[torch.Tensor]:
    parameters = [hidden, *head.parameters()]
    return [value.detach(), *torch.autograd.grad(-0.25 * value, parameters)]


@pytest.mark.parametrize("cap", [None, 0.4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("quantity", ["logprob", "kl", "distillation", "any function"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_equals_the_plain_path(
    quantity: str, precision: str, bias: bool, cap: float | None, device: torch.device
) -> None:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    hidden, head, targets, reference, reference_head = _inputs(dtype, bias, device)
    if cap is not None:
        head, reference_head = CappedHead(head, cap), CappedHead(reference_head, cap)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "autocast"):
        if quantity == "kl":
            fused = kl_sum(hidden, head, reference, reference_head)
            plain = kl_from_reference(hidden, head, reference, reference_head).sum()
        elif quantity == "distillation":
            given = targets, reference, reference_head, 5.0
            fused = distillation_sum(hidden, head, *given)
            plain = distillation(hidden, head, *given).sum()
        elif quantity == "any function":

            def function(logprobs: torch.Tensor) -> torch.Tensor:
                halves = logprobs.reshape(2, -1).sum(1)
                return torch.nn.functional.softplus(0.1 * halves + 3).sum()

            fused = function_of_logprobs(hidden, head, targets, function)
            plain = function(target_logprobs(hidden, head, targets))
        else:
            fused = logprob_sum(hidden, head, targets)
            plain = target_logprobs(hidden, head, targets).sum()
    assert fused.dtype == torch.float32
    # bfloat16 has 8 bits; the plain path also rounds each chunk's part of the head's gradient to
    # them
    tolerance = 1e-5 if precision == "float32" else 3e-2
    for mine, theirs in zip(
        _result(fused, hidden, head), _result(plain, hidden, head), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).float().norm() <= tolerance * theirs.float().norm()


def test_by_hand() -> None:
    """Two words, hidden state 0: P = (1/2, 1/2), so log P = -log 2 and the gradient in W is (1/2,
    -1/2) outer h = 0; moving h by W^T (onehot - P)."""
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [3.0]])
    hidden = torch.zeros(1, 1, requires_grad=True)
    value = logprob_sum(hidden, head, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(-0.6931472)
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(0.5 * 1.0 - 0.5 * 3.0)
    assert head.weight.grad is not None
    assert head.weight.grad.tolist() == [[0.0], [0.0]]


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets, _, _ = _inputs(torch.float32, bias=True)
    head.requires_grad_(False)
    logprob_sum(hidden, head, targets).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_a_second_backward_pass_is_refused() -> None:
    hidden, head, targets, _, _ = _inputs(torch.float32, bias=False)
    value = logprob_sum(hidden, head, targets)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        value.backward()


def test_no_rows() -> None:
    """A rank whose sequences are all padding."""
    hidden, head, _, _, _ = _inputs(torch.float32, bias=False)
    value = logprob_sum(hidden[:0], head, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
