"""What `sonotag bench` measured on this machine, and how many live streams that lets the service take.

Who decides, first to last: SONOTAG_MAX_STREAMS where somebody set it; a measurement of the same model on the same provider, in
the same precision, with as many workers and cores, and not older than the model's tuning; the default. A measurement of
something else is left alone and the log says what differs: the streams that one model can take say nothing of another.

The limit counts streams, measured with nothing else to do. Clips, batches and clients on the same machine take their part, so
`service.inference.live_share` refuses streams beside it, by what the model can do at the moment: the smaller of both holds.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic

from service.capacity_file import capacity_path, read_content, read_machine, write_content
from service.errors import SettingsError
from service.inference.runner import ModelSpec, Precision, Provider
from service.inference.tuning import Tuning
from service.logs import log_event
from service.machine import Machine
from service.settings import Settings

_logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 2
"""1 was the limit alone, and is still read."""
Origin = Literal["setting", "measured", "default"]


class Measurement(pydantic.BaseModel):
    """The most live streams that kept the objective, and what was measured.

    Attributes:
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


class SavedCapacity(pydantic.BaseModel):
    """The file.

    Attributes:
        format_version: Of it.
        limit: What `sonotag bench` found; None where it was not run.
        tuning: What `sonotag bench --tune` found; None where it was not run.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[2] = FORMAT_VERSION
    limit: Measurement | None = None
    tuning: Tuning | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_over_version_1(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("format_version") == 1:
            return {"limit": {name: value for name, value in data.items() if name != "format_version"}}
        return data


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


def read_saved(path: Path) -> SavedCapacity:
    """Read the file; nothing is saved where there is none.

    Raises:
        SettingsError: It cannot be read or is not what `sonotag bench` writes; the message says what is wrong with it.
    """
    return _parse(path, read_content(path))


def write_saved(path: Path, *, limit: Measurement | None = None, tuning: Tuning | None = None) -> None:
    """Write what is given, and keep the other part of the file if it can be read.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        saved = read_saved(path)
    except SettingsError as error:
        log_event(_logger, logging.WARNING, "the file is written anew", reason=error)
        saved = SavedCapacity()
    new = SavedCapacity(limit=limit or saved.limit, tuning=tuning or saved.tuning)
    write_content(path, new.model_dump_json(indent=2) + "\n")


def find_machine(settings: Settings) -> Machine:
    """Return what the supervisor read for all workers; where there is none, what there is.

    Raises:
        SettingsError: See `read_machine`.
    """
    return settings.machine or read_machine(settings)


def load_saved(settings: Settings) -> SavedCapacity:
    """Return what was measured on this machine.

    Raises:
        SettingsError: SONOTAG_CAPACITY_FILE names a file that is none of ours. One in the default place is only warned of.
    """
    content = find_machine(settings).capacity_file
    try:
        return _parse(capacity_path(settings), content)
    except SettingsError as error:
        if settings.capacity_file is not None:
            raise
        log_event(_logger, logging.WARNING, "the measured capacity is not used", reason=error)
        return SavedCapacity()


def decide_limit(settings: Settings, spec: ModelSpec, measurement: Measurement | None) -> StreamLimit:
    """Return how many live streams the service takes with this default model.

    Raises:
        SettingsError: See `find_machine`.
    """
    if settings.is_stream_limit_set:
        return StreamLimit(settings.max_streams, "setting")
    default = StreamLimit(settings.max_streams, "default")
    if measurement is None:
        return default
    path, cores = capacity_path(settings), find_machine(settings).cores
    if obstacle := find_difference(measurement, spec, workers=settings.workers, cores=cores):
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
    if spec.tuned_at is not None and measurement.measured_at < spec.tuned_at:
        return f"it was measured before the model was tuned, on {spec.tuned_at:%Y-%m-%d}: run sonotag bench again"
    return None


def _parse(path: Path, content: bytes | None) -> SavedCapacity:
    if content is None:
        return SavedCapacity()
    try:
        return SavedCapacity.model_validate(json.loads(content))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where, told = ".".join(str(part) for part in first["loc"]) or "the file", first["msg"]
    except (ValueError, RecursionError) as error:
        where, told = "the file", f"it is no JSON: {error}"
    raise SettingsError(f"{path}: {where}: {told}; sonotag bench writes it anew (SONOTAG_CAPACITY_FILE)")
