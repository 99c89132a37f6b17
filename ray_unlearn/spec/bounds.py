"""Bounds on the numbers in study files.

Each is far above any sensible value. Beyond it something breaks long after the study began: a
column of the result table, a tensor, a timer, the memory for a list.
"""

from typing import Annotated

from pydantic import Field

LARGEST_SEED = 2**63 - 1
"""Largest seed: seeds are an int64 column of the result table."""

MOST_UPDATES = 10**9
"""Optimizer updates of a trial."""

MOST_SEQUENCES = 2**20
"""Sequences of a batch and tokens of a sequence; their indices are held in memory."""

MOST_DOCUMENTS = 10**9
"""Documents of a split."""

LONGEST_TEMPLATE = 100_000
"""Characters of a chat template; it is copied into the ledger."""

LONGEST_SEPARATOR = 1000
"""Characters between a prompt and its answer."""

MOST_ROWS = 100_000
"""Evaluation rows of one trial; each is a ledger line and its update is part of the trial's id."""

MOST_TRIALS = 1_000_000
"""Trials of one method."""

MOST_WORKERS = 10_000
"""Lanes, workers of a lane, CPUs or GPUs of a worker."""

LARGEST_FACTOR = 1e30
"""Rates and weights; they are multiplied with float32 numbers, which end at 3.4e38."""

LONGEST_S = 1e9
"""Seconds, about 30 years; a timer cannot wait 300 years."""

MOST_RETRIES = 1000
"""Times that a trial is run again."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Weight = Annotated[float, Field(ge=0, le=LARGEST_FACTOR)]
