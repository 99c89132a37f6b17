"""What a model does with its logits after the output embedding: a scale, a soft cap, or nothing.

Granite divides its logits by a number, Cohere multiplies them, MiniCPM3 divides the hidden states
instead, Gemma 2 and nanochat cap them softly: cap * tanh(logits / cap). Log-probabilities are
computed here from hidden states and output embedding alone, so they must do the same. Config fields
do not tell: `logits_scaling` divides in Granite and multiplies in HyperCLOVA X, and a soft cap of
30 does not show in small logits. So a model is asked: it is handed logits of every size in place
of its own, and what comes out is compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ray_unlearn.spec.errors import UserError

TINY, HUGE = 1e-4, 1e6
"""Logits that show the scale, and the cap."""
MAGNITUDES = (TINY, 1e-2, 0.5, 3.0, 10.0, 25.0, 60.0, 200.0, 1e4, HUGE)
EXACT = 1e-4
"""Relative difference of logits in float32."""
ROUGH = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
"""Relative difference of hidden states, by the dtype of the weights."""


@dataclass(frozen=True)
class LogitMap:
    """Logits as a function of z = W h + b: scale * z, or cap * tanh(scale * z / cap)."""

    scale: float = 1.0
    """It is applied to the hidden states, which is the same where there is no bias."""
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        scaled = logits * self.scale
        return scaled if self.cap is None else soft_capped(scaled, self.cap)


PLAIN = LogitMap()


class CappedHead(nn.Linear):
    """An output embedding with soft-capped logits; shares the weights of `head`."""

    def __init__(self, head: nn.Linear, cap: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight, self.bias = head.weight, head.bias
        self.cap = cap

    def forward(self, hidden: Tensor) -> Tensor:
        """Capped logits [..., V], computed in float32."""
        return soft_capped(super().forward(hidden).float(), self.cap)


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap) (Gemma 2, arXiv 2408.00118, section 2)."""
    return torch.tanh(logits / cap) * cap


def cap_of(head: nn.Linear) -> float | None:
    """The soft cap of a head's logits, or None."""
    return head.cap if isinstance(head, CappedHead) else None


def with_cap(chunk: Callable[..., tuple[Tensor, Tensor]], cap: float) -> Any:
    """A `head.Chunk` of capped logits as one of plain logits, by the chain rule."""

    def capped(logits: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
        found = soft_capped(logits, cap)
        slope = 1 - (found / cap).square_()
        value, gradient = chunk(found, *more)
        return value, gradient.mul_(slope)

    return capped


def logit_map_of(model: Any) -> LogitMap:
    """What was measured when the model was loaded."""
    found: LogitMap = getattr(model, "logit_map", PLAIN)
    return found


@torch.no_grad()
def measured_logit_map(
    model: Any, source: str, hidden_states: Callable[[Any, Tensor], Tensor]
) -> LogitMap:
    """What a causal LM does between its last hidden states and its logits.

    Args:
        model: with weights; a few short passes are made.
        source: what people call it.
        hidden_states: the final ones [1, T, H] of a model and tokens, as the model's body gives
            them.

    Raises:
        UserError: it has no linear output embedding, cannot be called, is not causal, or does
            something else than scaling and soft-capping.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"model.source: {source!r} ({type(model).__name__}) has no linear output embedding; "
            "use a causal language model"
        )
    tokens = torch.arange(4, device=head.weight.device)[None] % head.out_features
    try:
        given, shown, logits = _handed(model, head, tokens)
        own = hidden_states(model, tokens).float()
        begun = hidden_states(model, tokens[:, :-1]).float()
    # Every architecture fails in its own way.
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(
            f"model.source: {source!r} ({type(model).__name__}) cannot be called with tokens alone "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}); use a causal "
            "language model for text"
        ) from None
    tolerance = ROUGH.get(head.weight.dtype, 3e-2)
    if not (own[:, :-1] - begun).norm() <= tolerance * begun.norm():
        raise UserError(
            f"model.source: {source!r} ({type(model).__name__}) sees the tokens that it is to "
            "predict: it is no causal language model; use one"
        )
    before = _factor(own, shown, tolerance)
    after = _of_logits(given, logits)
    if before is None or after is None or (head.bias is not None and before * after.scale != 1):
        raise UserError(
            f"model.source: {source!r} ({type(model).__name__}) has logits that are not its output "
            "embedding times its last hidden states, scaled or soft-capped; this architecture is "
            "not supported: use another model"
        )
    return LogitMap(before * after.scale, after.cap)


def _handed(model: Any, head: nn.Linear, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits handed to the model by its head, what the head was called with, and the result."""
    seen: list[Tensor] = []

    def hand(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        signed = torch.tensor([sign * m for m in MAGNITUDES for sign in (1, -1)])
        handed = signed.to(output.device).repeat(output.numel() // len(signed) + 1)
        seen[:] = arguments[0].float(), handed[: output.numel()].reshape(output.shape)
        return seen[1].clone()

    hook = head.register_forward_hook(hand)
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        hook.remove()
    if not seen:
        raise ValueError("its output embedding is not called")
    return seen[1], seen[0], logits.float()


def _factor(own: Tensor, shown: Tensor, tolerance: float) -> float | None:
    """k where the head is called with k times the last hidden states; None where it is not."""
    if own.shape != shown.shape:
        return None
    factor = float((own * shown).sum() / own.square().sum())
    if not (shown - factor * own).norm() <= tolerance * shown.norm():
        return None
    return 1.0 if abs(factor - 1) < tolerance else factor


def _of_logits(given: Tensor, found: Tensor) -> LogitMap | None:
    """The map from the logits given to those found; None where it is another function."""
    if given.shape != found.shape:
        return None
    values = dict(zip(given.flatten().tolist(), found.flatten().tolist(), strict=True))
    tiny, huge = (values[float(torch.tensor(m))] for m in (TINY, HUGE))
    scale = tiny / float(torch.tensor(TINY))
    uncapped = abs(huge - scale * HUGE) <= EXACT * abs(huge)
    scale = huge / HUGE if uncapped else 1.0 if abs(scale - 1) < EXACT else scale
    fitted = LogitMap(scale, None if uncapped else abs(huge))
    right = torch.allclose(fitted(given), found, rtol=EXACT, atol=1e-6)
    return fitted if right and scale > 0 else None
