"""Optimizers whose small steps are not lost, whatever the dtype of the weights.

bfloat16 has 8 significant bits: adding a step below 1/512 of a weight does not change the weight,
and nearly all of unlearning's steps (learning rates around 1e-6) are that small. So the step is
made in float32 and only then rounded:

    stochastic  rounded up or down at random, right on average (Gupta et al. 2015, arXiv
                1502.02551): even a few small steps show in the loss, and no memory is needed; two
                shardings draw different noise
    exact       the bits that bfloat16 drops are stored beside it (16 residual bits a weight):
                together they are a float32 weight, and the trajectory is that of float32 weights
                which the forward pass reads rounded (split weights: Kalamkar et al. 2019, arXiv
                1905.12322). Nothing is lost, but nothing shows before it adds up to a bfloat16
                spacing
    nearest     what plain AdamW on bfloat16 weights does; here to show what is lost

docs/performance.md compares measurements of the three. Moments are always float32: in bfloat16 the
second one would never decay at beta_2 = 0.999.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw as functional_adamw

from ray_unlearn.spec.hyperparameters import OptimizerName
from ray_unlearn.spec.model_spec import Rounding
from ray_unlearn.spec.trial_config import TrialConfig

PIECE = 2**24
"""Weights per piece: 64 MiB in float32."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrialConfig, rounding: Rounding
) -> torch.optim.Optimizer:
    """The trial's optimizer, with decoupled weight decay on matrices only, as is usual.

    adamw    Loshchilov & Hutter 2019, arXiv 1711.05101
    sgd      w -= rate x gradient, without momentum
    signsgd  w -= rate x sign of the gradient (Bernstein et al. 2018, arXiv 1802.04434)
    """
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adamw" and all(p.dtype == torch.float32 for p in parameters):
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    return Rounded(
        groups,
        config.learning_rate,
        betas,
        rule=config.optimizer,
        rounding=rounding,
        seed=config.seed,
    )


@torch.no_grad()
def reuse_memory(optimizer: torch.optim.Optimizer, previous: torch.optim.Optimizer | None) -> None:
    """Give a new optimizer the states of the previous trial, set to zero.

    For a large model, allocating new memory takes longer than everything else between two trials.
    What the new one does not train is left out, and states of another kind are let go.
    """
    if previous is None or rule_of(optimizer) != rule_of(previous):
        return
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for p, state in previous.state.items():
        if id(p) not in trained:
            continue
        optimizer.state[p] = {name: _zeroed(value) for name, value in state.items()}


def _zeroed(value: Tensor | int) -> Tensor | int:
    return value.zero_() if isinstance(value, Tensor) else 0


def rule_of(optimizer: torch.optim.Optimizer) -> str:
    """Name of the rule that its steps follow."""
    return optimizer.rule if isinstance(optimizer, Rounded) else "adamw"


class Rounded(torch.optim.Optimizer):
    """Steps in float32 of one of three rules; bfloat16 weights are rounded after each.

    float32 weights are changed as they are.

    Raises:
        ValueError: weights of another dtype.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rule: OptimizerName = "adamw",
        rounding: Rounding,
        seed: int = 0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.rule = rule
        self._rounding = rounding
        self._seed = seed
        for number, p in enumerate(self._parameters()):
            if p.dtype not in (torch.bfloat16, torch.float32):
                raise ValueError(
                    f"parameter {number} is {p.dtype}: weights are bfloat16 or float32"
                )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient; float32 copies exist for one piece at a time."""
        pairs = [(group, p) for group in self.param_groups for p in group["params"]]
        for number, (group, p) in enumerate(pairs):
            if p.grad is None:
                continue
            state = self._state(p)
            generator = self._generator(number, state["step"], p)
            columns = {
                "weights": local(p),
                "gradient": local(p.grad),
                **{name: tensor for name, tensor in state.items() if name != "step"},
            }
            for piece in zip(
                *(column.view(-1).split(PIECE) for column in columns.values()), strict=True
            ):
                tensors = dict(zip(columns, piece, strict=True))
                self._step_piece(group, tensors, state["step"], generator)
            state["step"] += 1

    def _step_piece(
        self, group: dict[str, Any], piece: dict[str, Tensor], step: int, generator: Any
    ) -> None:
        weights, gradient = piece["weights"], piece["gradient"].float()
        exact = join(weights, piece["low"]) if "low" in piece else weights.float()
        if self.rule == "adamw":
            # The kernel counts up a step of its own on the device.
            done = torch.full((), float(step), device=exact.device)
            functional_adamw(
                [exact], [gradient], [piece["exp_avg"]], [piece["exp_avg_sq"]], [], [done],
                fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
                lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False,
            )  # fmt: skip
        else:
            moved = gradient if self.rule == "sgd" else gradient.sign()
            exact.mul_(1 - group["lr"] * group["weight_decay"]).sub_(moved, alpha=group["lr"])
        if weights.dtype == torch.float32:
            return  # `exact` is these weights themselves
        if "low" in piece:
            split(exact, weights, piece["low"])
        elif self._rounding == "stochastic":
            weights.copy_(stochastically_rounded(exact, generator))
        else:
            weights.copy_(exact)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states in their own dtype; torch would cast them to the weights' dtype."""
        super().load_state_dict(state_dict)
        for index, p in enumerate(self._parameters()):
            states = state_dict["state"].get(index)
            if states is not None:
                self.state[p] = {
                    name: int(value) if name == "step" else value.to(p.device, copy=True)
                    for name, value in states.items()
                }

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _state(self, p: nn.Parameter) -> dict[str, Any]:
        """The weight's moments and so on, and `step`, the steps made: a Python int.

        Read from a device it would be waited for, once per weight. States are made whole before
        they are stored: memory may run out between two of them.
        """
        if p not in self.state:
            like = local(p)
            made: dict[str, Any] = {"step": 0}
            if self.rule == "adamw":
                made["exp_avg"] = torch.zeros_like(like, dtype=torch.float32)
                made["exp_avg_sq"] = torch.zeros_like(like, dtype=torch.float32)
            if self._rounding == "exact" and like.dtype == torch.bfloat16:
                made["low"] = torch.zeros_like(like, dtype=torch.int16)
            self.state[p] = made
        found: dict[str, Any] = self.state[p]
        return found

    def _generator(self, number: int, step: int, p: nn.Parameter) -> torch.Generator:
        """Random generator of (seed, weight, update, part).

        A trial that continues from a checkpoint draws what it would have drawn without it.
        """
        key = (self._seed * 1_000_003 + step) * 1_000_003 + number
        part = p.device_mesh.get_local_rank() if isinstance(p, DTensor) else 0
        generator = torch.Generator(p.device)
        # torch accepts 64 bits; the key of a seed such as a date has more.
        generator.manual_seed((key * 1_000_003 + part) % 2**63 if part else key % 2**64)
        return generator


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state_dict` with this rank's part of sharded tensors."""
    content = optimizer.state_dict()
    parts = {
        index: {name: local(t) if isinstance(t, Tensor) else t for name, t in state.items()}
        for index, state in content["state"].items()
    }
    return content | {"state": parts}


def load_state(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """Continue from a result of `state_of`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, torch.optim.AdamW):  # its states are sharded like its parameters
        whole = {
            i: {n: _cut_as(parameters[i], t) for n, t in s.items()}
            for i, s in content["state"].items()
        }
        content = content | {"state": whole}
    optimizer.load_state_dict(content)


def _cut_as(p: nn.Parameter, part: Tensor) -> Tensor:
    """The sharded tensor that `part` is this rank's part of; plain for a plain `p` or a scalar."""
    if not isinstance(p, DTensor) or not part.ndim:
        return part
    part = part.to(p.device)
    return DTensor.from_local(
        part, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a plain tensor unchanged."""
    part = getattr(tensor, "to_local", None)
    return tensor.detach() if part is None else part()


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 weight of a rounded upper half `high` (bfloat16) and a rest `low` (int16)."""
    bits = (high.view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)
    return bits.view(torch.float32)


def split(exact: Tensor, high: Tensor, low: Tensor) -> None:
    """Write float32 weights as bfloat16 and the signed 16 bits that it lacks.

    The bfloat16 part is rounded to nearest. This is the inverse of `join`.
    """
    bits = exact.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    high.copy_(upper.to(torch.int16).view(torch.bfloat16))
    low.copy_((bits - (upper << 16)).to(torch.int16))


def stochastically_rounded(exact: Tensor, generator: torch.Generator) -> Tensor:
    """A bfloat16 neighbour of each float32 value, drawn so that it is right on average.

    The nearer neighbour has the higher probability.
    """
    noise = torch.randint(
        0, 1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=generator
    )
    return (((exact.view(torch.int32) + noise) >> 16).to(torch.int16)).view(torch.bfloat16)
