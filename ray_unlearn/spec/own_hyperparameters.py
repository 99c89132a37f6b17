"""Hyperparameters that single methods of the package have beside those of all."""

from ray_unlearn.spec.hyperparameters import Hyperparameter

BETA = Hyperparameter(
    "beta", 0.1, "how sharply NPO, SimNPO and DPO stop at documents that are forgotten", above=0
)
GAMMA = Hyperparameter(
    "gamma",
    0.0,
    "margin that SimNPO wants below a document's mean log-probability, times beta",
    at_least=0,
)
CONFIDENCE_POWER = Hyperparameter(
    "confidence_power",
    1.0,
    "power of P(x_t) in a token's weight (WGA, SatImp)",
    at_least=0,
    at_most=64,
)
DOUBT_POWER = Hyperparameter(
    "doubt_power", 1.0, "power of 1 - P(x_t) in a token's weight (SatImp)", at_least=0, at_most=64
)
LOGIT_PENALTY = Hyperparameter(
    "logit_penalty", 10.0, "what UNDIAL takes off the vanilla model's logit of each target", above=0
)
LAYER_DEPTH = Hyperparameter(
    "layer_depth",
    0.25,
    "layer whose hidden states RMU steers, as a fraction of the model's layers",
    above=0,
    at_most=1,
)
TRAINED_LAYERS = Hyperparameter(
    "trained_layers",
    3,
    "layers that RMU trains, the steered one and those just below it",
    at_least=1,
    at_most=1024,
)
STEERING = Hyperparameter(
    "steering", 20.0, "length of the vector that RMU steers forget documents' states to", above=0
)
SHIFT = Hyperparameter(
    "shift", 1.0, "length of the vector that features of forget documents are shifted by", above=0
)
MISMATCH_WEIGHT = Hyperparameter(
    "w_mismatch", 1.0, "weight of the cross-entropy to mismatched answers (LLMU)", above=0
)
