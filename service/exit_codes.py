"""What the command's exit codes mean."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILURE: Final = 1
"""The command ran, and something it was to do failed."""
USAGE: Final = 2
"""The command line is wrong (argparse's own code)."""
START: Final = 3
"""It cannot start as it is configured: a setting, a bundle, a provider, an address."""
UNFINISHED: Final = 4
"""The service was told to end, and ended before what was under way had finished."""
HUNG: Final = 5
"""A run of a model did not come back (SONOTAG_WATCHDOG_SECONDS): whoever supervises the service starts it again."""
INTERRUPTED: Final = 130
"""Control-C, as shells count it."""
