"""How many live streams this machine can take: what `sonotag bench` measured, and whether it still holds.

Who decides, first to last: SONOTAG_MAX_STREAMS where somebody set it; a measurement of the same model on the same provider, in
the same precision, with as many workers and cores; the default. A measurement of something else is left alone and the log says
what differs: the streams that one model can take say nothing of another.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic

from service.errors import SettingsError
from service.inference.providers import count_usable_cores
from service.inference.runner import ModelSpec, Precision, Provider
from service.logs import log_event
from service.settings import Settings

_logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
MAX_FILE_BYTES = 65_536
FILE_NAME = Path("sonotag", "capacity.json")
Origin = Literal["setting", "measured", "default"]


class Measurement(pydantic.BaseModel):
    """The file: the most live streams that kept the objective, and what was measured.

    Attributes:
        format_version: Of this file.
        streams: The largest number that kept it, over all workers.
        windows_per_second: The most windows that the service scored in a second.
        slo_seconds: The objective: 99 of 100 windows were answered within this time, and none was dropped.
        hop_seconds: The hop of the streams.
        model: The name it was served under.
        model_sha256: Hash of the checkpoint.
        provider: Where it ran.
        precision: What it ran in.
        cores: That the service could use.
        workers: Of the service.
        measured_at: When.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    streams: Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
    windows_per_second: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    slo_seconds: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    hop_seconds: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    model: str
    model_sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    provider: Provider
    precision: Precision
    cores: Annotated[int, pydantic.Field(ge=1)]
    workers: Annotated[int, pydantic.Field(ge=1)]
    measured_at: pydantic.AwareDatetime


@dataclass(frozen=True, slots=True)
class StreamLimit:
    """How many live streams the whole service takes.

    Attributes:
        streams: So many.
        origin: Who says so.
        measurement: Where a measurement does.
    """

    streams: int
    origin: Origin
    measurement: Measurement | None = None

    @property
    def explanation(self) -> str:
        """What sets the limit, for messages."""
        if self.measurement is None:
            return "SONOTAG_MAX_STREAMS"
        return f"measured by sonotag bench on {self.measurement.measured_at:%Y-%m-%d}; SONOTAG_MAX_STREAMS overrules it"


DEFAULT_LIMIT = StreamLimit(1, "default")
"""Before the models are loaded, when no stream is taken anyway."""


def capacity_path(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Return where the measurement is kept: the setting, or a file in the folder for state (XDG base directories)."""
    if settings.capacity_file is not None:
        return settings.capacity_file.expanduser()
    variables = os.environ if environ is None else environ
    state = Path(variables.get("XDG_STATE_HOME", ""))
    # The specification: a relative path there is to be ignored.
    if not state.is_absolute():
        state = Path(variables.get("HOME") or "/nonexistent", ".local", "state")
    return state / FILE_NAME


def read_measurement(path: Path) -> Measurement | None:
    """Read the file; None where there is none.

    Raises:
        SettingsError: It cannot be read or is not what `sonotag bench` writes; the message says what is wrong with it.
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
    try:
        return Measurement.model_validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(f"{path}: {where}: {first['msg']}; sonotag bench writes it anew (SONOTAG_CAPACITY_FILE)") from error


def write_measurement(path: Path, measurement: Measurement) -> None:
    """Write the file, whole or not at all.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(measurement.model_dump_json(indent=2) + "\n")
        temporary = Path(file.name)
        temporary.chmod(0o644)  # the service may run as another user than the benchmark
        temporary.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror} (SONOTAG_CAPACITY_FILE)") from error


def decide_limit(settings: Settings, spec: ModelSpec) -> StreamLimit:
    """Return how many live streams the service takes with this default model.

    Raises:
        SettingsError: SONOTAG_CAPACITY_FILE names a file that is none of ours. One in the default place is only warned of.
    """
    if settings.is_stream_limit_set:
        return StreamLimit(settings.max_streams, "setting")
    default = StreamLimit(settings.max_streams, "default")
    path = capacity_path(settings)
    try:
        measurement = read_measurement(path)
    except SettingsError as error:
        if settings.capacity_file is not None:
            raise
        log_event(_logger, logging.WARNING, "the measured capacity is not used", reason=error)
        return default
    if measurement is None:
        return default
    if obstacle := find_difference(measurement, spec, workers=settings.workers, cores=count_usable_cores()):
        log_event(_logger, logging.INFO, "the measured capacity is not used", reason=obstacle, file=path)
        return default
    log_event(_logger, logging.INFO, "the measured capacity is the limit", streams=measurement.streams, file=path)
    return StreamLimit(measurement.streams, "measured", measurement)


def find_difference(measurement: Measurement, spec: ModelSpec, *, workers: int, cores: int) -> str | None:
    """Return why a measurement says nothing of a service, or None where it does."""
    measured = {
        "model": f"{measurement.model} ({measurement.model_sha256[:12]})",
        "provider": measurement.provider,
        "precision": measurement.precision,
        "workers": str(measurement.workers),
        "cores": str(measurement.cores),
    }
    serving = {
        # The name is only what it is served under; the hash says which weights they are.
        "model": measured["model"]
        if spec.source_sha256 == measurement.model_sha256
        else f"{spec.name} ({spec.source_sha256[:12]})",
        "provider": spec.provider,
        "precision": spec.precision,
        "workers": str(workers),
        "cores": str(cores),
    }
    for name, value in serving.items():
        if value != measured[name]:
            return f"it was measured with {name} {measured[name]}, this is {value}"
    return None
