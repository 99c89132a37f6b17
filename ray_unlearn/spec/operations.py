"""Operations: lanes, resources and checkpoints, which may change between two sessions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ray_unlearn.spec.bounds import LONGEST_S, MOST_RETRIES, MOST_SEQUENCES, MOST_WORKERS
from ray_unlearn.spec.strict import Strict

LoggerName = Literal["wandb", "mlflow"]


class Operations(Strict):
    """How a study is run; nothing here changes a result beyond rounding."""

    lanes: Annotated[int, Field(ge=1, le=MOST_WORKERS)] | Literal["auto"] = Field(
        1,
        description="warm worker groups, each running one trial at a time. auto: as many as the "
        "cluster holds, following it as nodes come and go; a number is reached when there is room",
    )
    max_lanes: int | None = Field(
        None, ge=1, le=MOST_WORKERS, description="with `lanes: auto`: no more than so many"
    )
    autoscaling: bool = Field(
        False,
        description="the cluster has an autoscaler, which may add nodes for lanes that have no "
        "room (Ray seldom reports its limits)",
    )
    workers_per_lane: int = Field(1, ge=1, le=MOST_WORKERS)
    parallel: Literal["replicate", "shard"] = Field(
        "replicate",
        description="how a lane's workers hold the model. replicate: each holds all weights; "
        "shard: each holds a part of weights, gradients and optimizer states (FSDP2), for models "
        "that do not fit otherwise",
    )
    cpus_per_worker: float = Field(1, gt=0, le=MOST_WORKERS)
    gpus_per_worker: float = Field(0, ge=0, le=MOST_WORKERS)
    micro_batch_size: int | None = Field(
        None, ge=1, le=MOST_SEQUENCES, description="sequences per forward/backward pass and worker"
    )
    activation_checkpointing: bool = Field(
        False,
        description="store only each layer's input and compute the rest again: less memory, a "
        "third more time",
    )
    head: Literal["fused", "plain", "liger"] = Field(
        "fused",
        description="how the loss is computed. fused: value and gradient from one pass over the "
        "logits; plain: the reference path; liger: fused by the kernels of Liger Kernel, on CUDA "
        "devices (pip install 'ray-unlearn[liger]')",
    )
    max_retries: int = Field(
        2, ge=0, le=MOST_RETRIES, description="times a trial is run again after its worker died"
    )
    tensorboard: bool = True
    loggers: tuple[LoggerName, ...] = Field(
        (),
        description="trackers that a process beside the driver sends the study to, from its "
        "ledger (pip install 'ray-unlearn[wandb,mlflow]'; `ray-unlearn log` does it later)",
    )
    metrics_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        description="serve the Prometheus metrics on this port of 127.0.0.1; null: only the file",
    )
    checkpoint_every_s: float | None = Field(
        60.0,
        ge=0,
        le=LONGEST_S,
        description="seconds between two checkpoints of a running trial; null: no checkpoints, an "
        "interrupted trial starts again",
    )
    keep_best: bool = Field(True, description="keep the weights of the best row so far")
    stall_timeout_s: float | None = Field(
        1800.0,
        gt=0,
        le=LONGEST_S,
        description="a lane without any sign of life for this long is restarted; null: never",
    )
    grace_s: float = Field(
        20.0,
        ge=0,
        le=LONGEST_S,
        description="seconds that running trials have for a checkpoint when the study is stopped",
    )

    @model_validator(mode="after")
    def _one_number_of_lanes(self) -> Self:
        if self.max_lanes is not None and self.lanes != "auto":
            raise ValueError(
                f"`max_lanes` is for `lanes: auto`, got `lanes: {self.lanes}`; remove one of the "
                "two"
            )
        if self.autoscaling and self.lanes == "auto" and self.max_lanes is None:
            raise ValueError(
                "`lanes: auto` with `autoscaling` needs `max_lanes`: nothing else says when to "
                "stop asking for nodes"
            )
        return self

    @model_validator(mode="after")
    def _gpus_that_can_be_given(self) -> Self:
        gpus = self.gpus_per_worker
        if self.workers_per_lane > 1 and 0 < gpus < 1:
            raise ValueError(
                "`gpus_per_worker`: each of a lane's workers needs a GPU of its own, for NCCL "
                f"refuses two of a group on one; got `workers_per_lane: {self.workers_per_lane}` "
                f"and `gpus_per_worker: {gpus:g}`; set `gpus_per_worker: 1`, or "
                "`workers_per_lane: 1` and more lanes"
            )
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"`gpus_per_worker`: above 1 Ray gives whole GPUs, got {gpus:g}; use "
                f"{int(gpus)} (a worker computes on one of them)"
            )
        return self

    def most_lanes(self, trials: int) -> int:
        """The most lanes that a study of `trials` trials can use on any cluster."""
        most = self.max_lanes if self.lanes == "auto" else self.lanes
        return max(1, trials if most is None else min(most, trials))
