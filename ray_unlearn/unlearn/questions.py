"""What a model is asked to go on from, and the true answer, as the tokens of a split."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ray_unlearn.spec.evaluation_spec import EvaluationSpec, GenerateSpec
from ray_unlearn.unlearn.data import StudyData
from ray_unlearn.unlearn.token_set import TokenSet


class Question(NamedTuple):
    """Token ids of a prompt, and of the true answer."""

    prompt: list[int]
    answer: list[int]


def questions_of(tokens: TokenSet, asked: GenerateSpec) -> list[Question]:
    """A question for each document of a split, or for some of them, evenly spaced.

    A prompt ends where the answer begins. Of a text, of which all tokens count, the first
    `prompt_tokens` are the prompt, at most half of its first sequence, and as many as are asked for
    are the true answer after it.
    """
    documents = len(tokens.selection)
    most = documents if asked.documents is None else min(asked.documents, documents)
    wanted = {int(i) for i in np.linspace(0, documents - 1, most).round()}
    return [
        _question(tokens, row, places, asked)
        for number, row, places in _first_places(tokens)
        if number in wanted
    ]


def longest_generation(data: StudyData, evaluation: EvaluationSpec) -> int:
    """Tokens of the longest prompt with its answer that a study generates; 0 if there is none."""
    return max(
        (
            len(question.prompt) + asked.max_new_tokens
            for asked in evaluation.generate
            for name in asked.sets
            for question in questions_of(data.evaluated(name), asked)
        ),
        default=0,
    )


def _first_places(tokens: TokenSet) -> Iterator[tuple[int, int, slice]]:
    """Each document's number, and row and columns of its first chunk."""
    numbers, starts = np.unique(tokens.document, return_index=True)
    for number, start in zip(numbers.tolist(), starts.tolist(), strict=True):
        if number >= 0:
            row, column = divmod(start, tokens.document.shape[1])
            ends = np.flatnonzero(tokens.document[row, column:] != number)
            length = int(ends[0]) if len(ends) else tokens.document.shape[1] - column
            yield number, row, slice(column, column + length)


def _question(tokens: TokenSet, row: int, places: slice, asked: GenerateSpec) -> Question:
    ids = tokens.input_ids[row, places].tolist()
    if tokens.prompt is None:
        first = min(asked.prompt_tokens, len(ids) // 2)
        return Question(ids[:first], ids[first : first + asked.max_new_tokens])
    first = max(1, int(tokens.prompt[row, places].sum()))
    return Question(ids[:first], ids[first:])
