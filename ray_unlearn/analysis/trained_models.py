"""How many trained models a table has, and what is independent in it: domains, or models.

Unlearning seeds of one trained model do not stand for other trained models (arXiv 2510.26714), so
claims about others need several. Two models are two only where one domain has both: models that
were each made for a domain of their own, mostly from one base, differ as their domains do.
"""

from typing import Literal

import pandas as pd


def trained_models(trials: pd.DataFrame) -> int:
    """Number of trained models: the most that any one domain has.

    One model for all domains is one, and so is a model of its own for each domain. Trials whose
    model is not known are of one model.

    Args:
        trials: columns `domain` and `model`.
    """
    return int(trials.groupby("domain")["model"].nunique().max()) if len(trials) else 0


def held_out_by(trials: pd.DataFrame) -> Literal["domain", "model"]:
    """What is left out: domains, or models where there are more of them (`trained_models`).

    A domain is left out on all models at once: what was learnt about it on one model says something
    about it on another.
    """
    return "domain" if trials["domain"].nunique() >= trained_models(trials) else "model"
