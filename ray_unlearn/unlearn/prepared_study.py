"""The data of a study as its file asks for them: splits, watched sets, alternative answers."""

from collections.abc import Callable

from ray_unlearn.spec.study_spec import StudySpec
from ray_unlearn.unlearn.data import StudyData, prepare
from ray_unlearn.unlearn.methods import other_answers


def prepared_study(spec: StudySpec, say: Callable[[str], None] = lambda text: None) -> StudyData:
    """Read, check and tokenise all that a study trains and measures on.

    Args:
        spec: the study.
        say: called with each line of progress.

    Raises:
        UserError: as `prepare`.
    """
    return prepare(
        spec.data,
        spec.model,
        say=say,
        evaluation=spec.evaluation,
        answers=other_answers(spec.methods),
    )
