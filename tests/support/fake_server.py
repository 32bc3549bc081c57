"""A real server process whose model is a `FakeRunner`: `python -m tests.support.fake_server` is a whole service.

FAKE_SECONDS in the environment says how long each run takes: a real pause in the model's thread, as a slow model makes it.
"""

from __future__ import annotations

import os
import sys

from service.app import create_app
from service.logs import configure_logging
from service.server import run_server
from service.settings_source import load_settings
from tests.support.runners import FakeRunner

if __name__ == "__main__":
    settings = load_settings({})
    configure_logging(settings.log_format, settings.log_level)
    delay = float(os.environ.get("FAKE_SECONDS", "0"))
    # Nobody in this process looks at the calls, and hours of sound may come.
    sys.exit(run_server(settings, lambda chosen: create_app(chosen, runner=FakeRunner(delay_seconds=delay, keeps_calls=False))))
