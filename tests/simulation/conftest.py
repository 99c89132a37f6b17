"""The simulation uses the scheduler and the session of `tests/execution`."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent / "execution"))
