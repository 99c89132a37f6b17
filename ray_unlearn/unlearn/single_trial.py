"""One trial without a search, to try a configuration or to export the model of a study's trial."""

from collections.abc import Callable
from pathlib import Path

import torch

from ray_unlearn.spec.errors import UserError
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.spec.trial_config import TrialConfig
from ray_unlearn.store.objective import Objective
from ray_unlearn.store.record import Record
from ray_unlearn.store.row_score import Baselines, scored
from ray_unlearn.store.schema import Dealing, Row
from ray_unlearn.unlearn.baselines import measure_baselines
from ray_unlearn.unlearn.calibration import calibration_of
from ray_unlearn.unlearn.comm import Comm
from ray_unlearn.unlearn.evaluate import evaluate
from ray_unlearn.unlearn.loop import Ended, unlearn
from ray_unlearn.unlearn.memory import active_parameter_count
from ray_unlearn.unlearn.model import make_ready
from ray_unlearn.unlearn.policy import Adapters, WholeModel, load_policy
from ray_unlearn.unlearn.prepared_study import prepared_study
from ray_unlearn.unlearn.strength import trained_weights
from ray_unlearn.unlearn.workspace import Workspace, context_digest, retraining_flops
from ray_unlearn.unlearn.written_model import Form, load_written, write_model


class Single:
    """The models and data of a study in this process, ready for trials one by one.

    Args:
        spec: the study.
        say: receives news, a line at a time.
        record: of a study that was run, whose documents keep their halves; None: they are dealt.
    """

    def __init__(
        self,
        spec: StudySpec,
        say: Callable[[str], None] = lambda text: None,
        record: Record | None = None,
    ) -> None:
        self.objective = Objective.of(spec)
        make_ready(spec.model, lambda stage, fraction: say(f"{stage}: {fraction:.0%}"))
        self.spec = spec
        data = prepared_study(spec, say)
        self.context = context_digest(spec, data)
        self._former_context = context_digest(spec, data, former=True)
        dealing: Dealing = "balanced" if record is None else record.header.dealing
        data = data.as_dealt(dealing, {} if record is None else record.halves)
        device = (
            "cuda" if torch.cuda.is_available() and spec.operations.gpus_per_worker > 0 else "cpu"
        )
        self.workspace = Workspace.open(
            spec.model, data, spec.evaluation, spec.operations, Comm.single(), device
        )

    def can_repeat(self, config: TrialConfig) -> bool:
        """Whether a recorded trial ran with this model, data and evaluation."""
        return config.context in (self.context, self._former_context)

    def baselines(self) -> Baselines:
        """Measure vanilla and, where there is one, exactly retrained model."""
        rows = measure_baselines(self.workspace, self.spec.model)
        parameters = active_parameter_count(self.workspace.policy.model.config)
        return Baselines(
            rows["vanilla"],
            rows.get("exact_retrain"),
            retraining_flops(self.spec.model, parameters),
        )

    def run(
        self,
        config: TrialConfig,
        baselines: Baselines,
        on_row: Callable[[Row], None],
        calibrates: bool = False,
    ) -> Ended:
        """Run one trial, handing each scored row to `on_row`.

        Args:
            config: the trial.
            baselines: of the study.
            on_row: receives the rows.
            calibrates: whether trained states are also evaluated at the strength that meets the
                target.
        """
        weights = self.spec.objective.weights
        calibration = None
        if calibrates:
            space = self.spec.spaces.get(config.method)
            first = 1 if space is None else space.first_candidate(config.steps)
            calibration = calibration_of(self.workspace, config, first, baselines.forget_target)
        for row in unlearn(self.workspace, config, calibration=calibration):
            if isinstance(row, Ended):
                return row
            on_row(scored(row, baselines, weights, self.objective))
        raise AssertionError("a trial ends with `Ended`")

    def load_weights(self, path: Path) -> None:
        """Make the policy the model whose weights or adapters a study kept (safetensors)."""
        self.workspace.reset()
        load_policy(self.workspace.policy, path)

    def mix(self, strength: float) -> None:
        """Make the policy W_0 + strength (W_t - W_0), where W_t is what it is now."""
        policy = self.workspace.policy
        policy.mix(trained_weights(policy.parameters), strength)

    def save(self, folder: Path, form: Form = "merged") -> None:
        """Write the policy as it is now, with its tokenizer, as a Hugging Face folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        trained = self.workspace.policy
        assert isinstance(trained, WholeModel | Adapters), "one process holds the whole model"
        write_model(trained, self.spec.model, folder, form)

    def measure_written(self, folder: Path, form: Form = "merged") -> Row:
        """A row of the model in a folder, read from its files; the policy is gone afterwards.

        Metrics that only the last row of a trial has are left out.

        Raises:
            UserError: it cannot be loaded.
        """
        if isinstance(self.workspace.policy, WholeModel):
            self.workspace.policy.release()  # else there would be a third copy
        model = load_written(folder, self.spec.model, form)
        return evaluate(self.workspace, self.workspace.scored(model), last=False)


def shortened(config: TrialConfig, update: int) -> TrialConfig:
    """The trial that stops after `update`.

    With a constant learning rate its last row is the longer trial's row there.

    Raises:
        UserError: the schedule decays, so the shorter trial would be another one.
    """
    if update == config.steps:
        return config
    if config.schedule != "constant":
        raise UserError(
            f"update {update}: a trial with a {config.schedule} schedule can only be exported at "
            "its last update"
        )
    return config.model_copy(update={"steps": update, "evaluate_at": (update,)})
