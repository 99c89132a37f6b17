"""A check of the data's sequence length against the positions of a model.

A model with a table of positions has none beyond its end; other models were never trained there.
"""

from typing import Any

from torch import nn

from ray_unlearn.spec.errors import UserError

POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
"""Names of learned position embeddings."""


def check_positions(model: Any, length: int, place: str = "data.sequence_length") -> str | None:
    """Compare the data's sequence length with the positions of a model.

    Args:
        model: a causal LM; it may be on the meta device.
        length: tokens of a sequence.
        place: what in the study file makes it so long.

    Returns:
        A note for people if sequences are longer than the model's context but positions are
        computed, so that it can still read them; otherwise None.

    Raises:
        UserError: sequences are longer than the model's table of positions.
    """
    table = next(
        (
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding) and name.split(".")[-1] in POSITION_TABLES
        ),
        None,
    )
    context = getattr(model.config, "max_position_embeddings", None)
    if table is not None:
        # OPT's table begins with two rows that are no position.
        there = min(table.num_embeddings, context or table.num_embeddings)
        if length > there:
            raise UserError(
                f"{place}: {length}, but {type(model).__name__} has {there} "
                "positions; "
                f"use at most {there}"
            )
    elif isinstance(context, int) and length > context:
        return (
            f"{place}: {length} tokens are more than the {context} positions that "
            f"{type(model).__name__} was made for; its perplexity may be poor beyond them"
        )
    return None
