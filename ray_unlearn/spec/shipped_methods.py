"""The methods of this package, as data; `method_registry` registers them.

Adding one touches this file, its search space, and its losses if they are new.
"""

from dataclasses import replace

from ray_unlearn.spec.hyperparameters import (
    MIXING_HYPERPARAMETERS,
    TRAINING_HYPERPARAMETERS,
    Hyperparameter,
)
from ray_unlearn.spec.method_definition import Method
from ray_unlearn.spec.method_terms import Labels, TermSpec, TrainedSplit
from ray_unlearn.spec.own_hyperparameters import (
    BETA,
    CONFIDENCE_POWER,
    DOUBT_POWER,
    GAMMA,
    LAYER_DEPTH,
    LOGIT_PENALTY,
    MISMATCH_WEIGHT,
    SHIFT,
    STEERING,
    TRAINED_LAYERS,
)

SPLITS: tuple[tuple[str, TrainedSplit, str], ...] = (
    ("general", "general_retain", "G"),
    ("in_distribution", "retain", "R"),
)
"""Where a retain term's documents come from: as method names say it, as data does, in formulas."""


def _alone(
    name: str, formula: str, loss: str, labels: Labels = "true", *own: Hyperparameter
) -> Method:
    """A method of a forget term alone."""
    return Method(name, formula, (TermSpec("forget", "forget", loss, labels),), own=own)


def _mixed(
    name: str,
    formula: str,
    loss: str,
    retain: str,
    split: TrainedSplit,
    *own: Hyperparameter,
    labels: Labels = "true",
) -> Method:
    """A forget term with a retain term beside it."""
    return Method(
        name,
        formula,
        (
            TermSpec("forget", "forget", loss, labels, "w_f"),
            TermSpec("retain", split, retain, weight="w_r"),
        ),
        (*TRAINING_HYPERPARAMETERS, *MIXING_HYPERPARAMETERS),
        own,
    )


PAPER = (
    _alone("gradient_ascent", "-NLL(U)", "ascent"),
    _alone("random_labels", "CE(U, random labels)", "cross_entropy", "random"),
    _alone(
        "adversarial_samples",
        "CE(U, argmax_{a != x_t} P_0(a | x_<t))",
        "cross_entropy",
        "adversarial",
    ),
    *(
        _mixed(f"ascent_{name}_{where}", f"-w_f NLL(U) + w_r {formula}", "ascent", loss, split)
        for where, split, letter in SPLITS
        for name, loss, formula in (
            ("descent", "cross_entropy", f"NLL({letter})"),
            ("kl", "kl_divergence", f"KL(P_0 || P) on {letter}"),
        )
    ),
)
"""The seven methods of Yao et al., ACL 2024."""

BESIDE_THEM = (
    _alone("npo", "NPO(U)", "npo", "true", BETA),
    _mixed(
        "npo_descent_in_distribution",
        "w_f NPO(U) + w_r NLL(R)",
        "npo",
        "cross_entropy",
        "retain",
        BETA,
    ),
    _mixed(
        "npo_kl_in_distribution",
        "w_f NPO(U) + w_r KL(P_0 || P) on R",
        "npo",
        "kl_divergence",
        "retain",
        BETA,
    ),
    _mixed(
        "simnpo_descent_in_distribution",
        "w_f SimNPO(U) + w_r NLL(R)",
        "simnpo",
        "cross_entropy",
        "retain",
        BETA,
        GAMMA,
    ),
    _mixed(
        "wga_descent_in_distribution",
        "-w_f NLL(U), tokens weighted by P^confidence_power, + w_r NLL(R)",
        "weighted_ascent",
        "cross_entropy",
        "retain",
        CONFIDENCE_POWER,
    ),
    _mixed(
        "satimp_descent_in_distribution",
        "-w_f NLL(U), tokens weighted by P^confidence_power (1 - P)^doubt_power, + w_r NLL(R)",
        "saturation_ascent",
        "cross_entropy",
        "retain",
        CONFIDENCE_POWER,
        DOUBT_POWER,
    ),
    _alone(
        "undial",
        "CE(U, softmax(z_0 - logit_penalty onehot(x_t)))",
        "undial",
        "true",
        LOGIT_PENALTY,
    ),
    _mixed(
        "undial_descent_in_distribution",
        "w_f CE(U, softmax(z_0 - logit_penalty onehot(x_t))) + w_r NLL(R)",
        "undial",
        "cross_entropy",
        "retain",
        LOGIT_PENALTY,
    ),
    _alone("dpo", "DPO(U, alternative answers preferred)", "dpo", "alternative", BETA),
    _mixed(
        "dpo_descent_in_distribution",
        "w_f DPO(U, alternative answers preferred) + w_r NLL(R)",
        "dpo",
        "cross_entropy",
        "retain",
        BETA,
        labels="alternative",
    ),
    _alone("idk", "CE(U's prompts, alternative answers)", "cross_entropy", "alternative"),
    _mixed(
        "idk_descent_in_distribution",
        "w_f CE(U's prompts, alternative answers) + w_r NLL(R)",
        "cross_entropy",
        "cross_entropy",
        "retain",
        labels="alternative",
    ),
    *(
        _mixed(
            name,
            f"w_f ||h - steering u||^2 on U + w_r ||h - h_0||^2 on {letter}, h of one layer",
            "steered",
            "unmoved",
            split,
            LAYER_DEPTH,
            TRAINED_LAYERS,
            STEERING,
        )
        for name, (_, split, letter) in zip(("rmu_general", "rmu"), SPLITS, strict=True)
    ),
    replace(
        _mixed(
            "residual_alignment",
            "w_f ||r - shift u||^2 on U + w_r ||r||^2 on R, r = alpha/rank B A x",
            "shifted_residuals",
            "zero_residuals",
            "retain",
            SHIFT,
        ),
        adapters=True,
    ),
    *(
        Method(
            name,
            "-w_f NLL(U) + w_mismatch CE(U's prompts, answers of R) + w_r KL(P_0 || P) on "
            + letter,
            (
                TermSpec("forget", "forget", "ascent", weight="w_f"),
                TermSpec("mismatch", "forget", "cross_entropy", "mismatched", "w_mismatch"),
                TermSpec("retain", split, "kl_divergence", weight="w_r"),
            ),
            (*TRAINING_HYPERPARAMETERS, *MIXING_HYPERPARAMETERS),
            (MISMATCH_WEIGHT,),
        )
        for name, (_, split, letter) in zip(("llmu_general", "llmu"), SPLITS, strict=True)
    ),
)
"""All others, in the order in which they are listed."""
