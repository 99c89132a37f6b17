"""Trial ids by the schema version of the ledger that holds them.

Ledgers of schema 1 and 2 name a trial by a digest of one fixed list of fields, also after they are
resumed: the version in a ledger's header decides for all of its trials.
"""

from ray_unlearn.spec.strict import digest
from ray_unlearn.spec.trial_config import TrialConfig

LAST_FLAT_SCHEMA = 2
"""The last ledger schema with flat ids."""

FLAT_FIELDS = frozenset({
    "learning_rate", "steps", "batch_size", "retain_ratio", "w_f", "w_r", "schedule",
    "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2",
    "method", "seed", "evaluate_at", "context",
})  # fmt: skip
"""All fields of a trial as they were in schema 2; never add to it."""


def trial_id(config: TrialConfig, schema_version: int) -> str:
    """The id of a trial in a ledger.

    Args:
        config: the trial.
        schema_version: the version in the ledger's header.

    Returns:
        12 hex digits.
    """
    return flat_id(config) if schema_version <= LAST_FLAT_SCHEMA else config.id


def flat_id(config: TrialConfig) -> str:
    """The id of a trial in ledgers of schema 1 and 2: a digest of all its fields, with defaults."""
    return digest(config.model_dump(mode="json", include=set(FLAT_FIELDS)))
