"""A study file that is checked as a draft, tried, and only then written."""

import math
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.spec.errors import StorageError, UserError
from ray_unlearn.spec.study_file import load_study
from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.store.atomic_write import whole_file
from ray_unlearn.store.target import forgetting_warnings, half_targets
from ray_unlearn.unlearn.admission import Admission, admission, one_thread
from ray_unlearn.unlearn.machine import machine_here
from ray_unlearn.unlearn.tried_here import Tried, tried_here

CORE_TERAFLOPS = 0.03
"""What `plan` takes one CPU core to sustain."""


@dataclass(frozen=True)
class CheckedDraft:
    """What was found on a draft of a study file.

    Attributes:
        spec: the study.
        admitted: its checks; none is refused.
        tried: what the model did here; None where it was not tried.
    """

    spec: StudySpec
    admitted: Admission
    tried: Tried | None

    @property
    def seconds(self) -> float | None:
        """How long the study takes here, at most; None where nothing was tried."""
        if self.tried is None or self.admitted.plan is None:
            return None
        return self.tried.study_s(self.admitted.plan)

    @property
    def memory_words(self) -> str:
        """Whether there is something to forget."""
        if self.tried is None:
            return "not measured; the first lane asks the model, and says if there is none"
        row = self.tried.vanilla
        warnings = list(forgetting_warnings(row))
        targets = half_targets(row)
        assert targets is not None
        auc = row.get("mia_loss_auc_reporting", math.nan)
        said = (
            f"perplexity {math.exp(row['forget_nll']):.3g} on what is to be forgotten, "
            f"{targets[1].ppl:.3g} on text that stands for unseen; AUC of the loss attack "
            f"{auc:.2f} (0.5: not remembered)"
        )
        return "; ".join([said, *warnings]) if warnings else f"{said}: there is something to forget"

    @property
    def time_words(self) -> str:
        """How long the study takes here, and what that rests on."""
        planned = self.admitted.plan
        assert planned is not None, "nothing was refused"
        if self.tried is None or self.seconds is None:
            hours = planned.hours(CORE_TERAFLOPS)
            return (
                f"not measured; {hours:.3g} worker hours of updates at {CORE_TERAFLOPS} TFLOP/s, "
                "one CPU core; `ray-unlearn plan --teraflops` knows other machines"
            )
        return (
            f"at most {duration(self.seconds)} here: {planned.trials} trials on {planned.lanes} "
            f"lane(s); measured: {self.tried.update_s:.2g} s an update, "
            f"{self.tried.evaluation_s:.2g} s an evaluation"
        )


def duration(seconds: float) -> str:
    """A length of time in the unit that people use for it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def written_study(place: Path, text: str, *, measures: bool = True) -> CheckedDraft:
    """Check the text as a study file at `place`, and write it if nothing is refused.

    Args:
        place: the file; what is there is replaced.
        text: its content.
        measures: whether to load a model that is small and here.

    Raises:
        UserError: what is refused; nothing is written.
        StorageError: it cannot be written.
    """
    try:
        with whole_file(place) as draft:
            draft.write_text(text, encoding="utf-8")
            return _checked(draft, place, measures)
    except OSError as error:
        raise StorageError(f"{place}: cannot be written: {error}") from None


def _checked(draft: Path, place: Path, measures: bool) -> CheckedDraft:
    try:
        spec = load_study(draft)
        admitted = admission(spec, machine_here(place.absolute().parent), measures=False)
        admitted.refuse()
        tried = None
        if measures and admitted.data is not None:
            with one_thread():
                tried = tried_here(spec, admitted.data)
    except UserError as error:
        raise type(error)(str(error).replace(str(draft), str(place))) from None
    return CheckedDraft(spec, admitted, tried)
