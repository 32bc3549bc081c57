"""Where what `sonotag bench` measured is kept, as bytes; `service.capacity` knows what they mean.

The supervisor reads them for its workers, and does without the libraries that a meaning needs.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from service.errors import SettingsError
from service.logs import log_event
from service.machine import Machine, count_usable_cores
from service.settings import Settings

_logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 65_536
FILE_NAME: Final = Path("sonotag", "capacity.json")


def capacity_path(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Return where it is kept: the setting, or a file in the folder for state (XDG base directories)."""
    if settings.capacity_file is not None:
        return settings.capacity_file.expanduser()
    variables = os.environ if environ is None else environ
    state = Path(variables.get("XDG_STATE_HOME", ""))
    # The specification: a relative path there is to be ignored.
    if not state.is_absolute():
        state = Path(variables.get("HOME") or "/nonexistent", ".local", "state")
    return state / FILE_NAME


def read_machine(settings: Settings) -> Machine:
    """Return what there is here for a service with these settings.

    Raises:
        SettingsError: SONOTAG_CAPACITY_FILE names a file that cannot be read. One in the default place is only warned of.
    """
    try:
        content = read_content(capacity_path(settings))
    except SettingsError as error:
        if settings.capacity_file is not None:
            raise
        log_event(_logger, logging.WARNING, "the measured capacity is not used", reason=error)
        content = None
    return Machine(count_usable_cores(), content)


def read_content(path: Path) -> bytes | None:
    """Read the file; None where there is none.

    Raises:
        SettingsError: It cannot be read, or is too large to be what `sonotag bench` writes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror} (SONOTAG_CAPACITY_FILE)") from error
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{path} has more than {MAX_FILE_BYTES} bytes: no file of sonotag bench (SONOTAG_CAPACITY_FILE)")
    return content


def write_content(path: Path, content: str) -> None:
    """Write the file, whole or not at all.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(content)
        temporary = Path(file.name)
        temporary.chmod(0o644)  # the service may run as another user than the benchmark
        temporary.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror} (SONOTAG_CAPACITY_FILE)") from error
