"""The names of the demo's text and models in study files.

demo:<domain>                 the documents of a domain, or its model of training seed 0
demo:<domain>#<model seed>    the model of another training seed, on the same documents
demo:<domain>@<seed>          the model retrained without the forget set, of that seed
"""

import re

from ray_unlearn.demo.text import DOMAINS
from ray_unlearn.spec.errors import UserError, nearest

SEED = re.compile("0|[1-9][0-9]{0,8}", re.ASCII)


def demo_domain(source: str) -> str:
    """The domain in `demo:<domain>`.

    Raises:
        UserError: no such demo domain.
    """
    domain = source.removeprefix("demo:")
    if domain not in DOMAINS:
        raise UserError(f"unknown demo domain {domain!r}{nearest(domain, DOMAINS)}")
    return domain


def demo_model(source: str) -> tuple[str, int]:
    """Domain and training seed in `demo:<domain>` (seed 0) or `demo:<domain>#<model seed>`.

    Seed 0 has one name only, so that one model is never taken for two.

    Raises:
        UserError: no such demo domain; a seed that is not a whole number from 1 to 999,999,999.
    """
    name, mark, seed = source.partition("#")
    domain = demo_domain(name)
    if mark and (not SEED.fullmatch(seed) or seed == "0"):
        raise UserError(
            f"model.source: {source!r}: {seed!r} is no model seed; write `{name}#1` (any whole "
            f"number from 1 to 999,999,999), or `{name}` for seed 0"
        )
    return domain, int(seed or 0)


def demo_retrained(source: str) -> tuple[str, int]:
    """Domain and training seed in `demo:<domain>@<seed>`.

    Raises:
        UserError: another form, or no such demo domain.
    """
    name, _, seed = source.partition("@")
    if not SEED.fullmatch(seed):
        raise UserError(
            f"model.exact_retrain_seeds: {source!r}: write `demo:<domain>@<seed>`, another seed "
            "than that of `model.source`"
        )
    return demo_domain(name), int(seed)
