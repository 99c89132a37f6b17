"""Metrics of what the model generates: ROUGE-L and exact match of greedy answers.

They are means over documents. Each rank answers a part of the questions of a set.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ray_unlearn.spec.evaluation_spec import GenerateSpec
from ray_unlearn.store.schema import Metrics
from ray_unlearn.unlearn.decoding import greedy
from ray_unlearn.unlearn.questions import Question, questions_of
from ray_unlearn.unlearn.rouge import rouge_l
from ray_unlearn.unlearn.scored import Scored
from ray_unlearn.unlearn.workspace import Workspace


def generated_metrics(workspace: Workspace, model: Scored, last: bool) -> Metrics:
    """Columns of all sets that are generated from now, on rank 0; nothing on the others.

    Args:
        workspace: whose evaluation says what is asked.
        model: who answers.
        last: whether this is the last row of its trial, or a baseline.
    """
    found: Metrics = {}
    for asked in workspace.evaluation.generate:
        if asked.at == "every" or last:
            for name in asked.sets:
                found |= _of_set(workspace, model, name, asked)
    return found


def answers(
    workspace: Workspace, model: Scored, questions: Sequence[Question], asked: GenerateSpec
) -> list[str] | None:
    """The text of each answer, on rank 0; None on the others. A collective of all ranks."""
    comm, size = workspace.comm, workspace.evaluation_batch_size
    anchor = workspace.batch("forget", np.zeros(1, dtype=np.int64)).without_targets()
    # Prompts of like lengths go together, so that padding is little.
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].prompt))
    own = [order[start : start + size] for start in range(0, len(order), size)][
        comm.rank :: comm.world_size
    ]
    most = -(-len(order) // size)
    idle = workspace.idle_calls(len(own), -(-most // comm.world_size))
    texts: dict[int, str] = {}
    for chosen in (*own, *([0] for _ in idle)):
        found = greedy(
            model,
            anchor,
            [questions[i].prompt for i in chosen],
            asked.max_new_tokens,
            workspace.data.special_tokens,
            cached=workspace.can_cache,
            together=workspace.sharded,
        )
        texts |= {i: _text(workspace, ids) for i, ids in zip(chosen, found, strict=True)}
    parts = comm.gather(texts)
    if parts is None:
        return None
    every = {i: text for part in parts for i, text in part.items()}
    return [_until_stop(every[i], asked.stop) for i in range(len(questions))]


def _of_set(workspace: Workspace, model: Scored, name: str, asked: GenerateSpec) -> Metrics:
    questions = questions_of(workspace.data.evaluated(name), asked)
    given = answers(workspace, model, questions, asked)
    if given is None:
        return {}
    true = [_until_stop(_text(workspace, question.answer), asked.stop) for question in questions]
    scores = [rouge_l(*pair) for pair in zip(true, given, strict=True)]
    same = [a == b for a, b in zip(true, given, strict=True)]
    return {
        f"{name}_rouge_l": float(np.mean([score.recall for score in scores])),
        f"{name}_rouge_l_f1": float(np.mean([score.f1 for score in scores])),
        f"{name}_exact_match": float(np.mean(same)),
    }


def _text(workspace: Workspace, ids: Sequence[int]) -> str:
    tokenizer: Any = workspace.data.tokenizer
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


def _until_stop(text: str, stops: Sequence[str]) -> str:
    """Up to the first stop, white space folded."""
    ends: Iterator[int] = (at for stop in stops if (at := text.find(stop)) >= 0)
    return " ".join(text[: min(ends, default=len(text))].split())
