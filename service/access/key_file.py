"""The file of API keys: read, watched, and written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic

from service.access.keys import KEY_NAME, ApiKey, Limits, Scope
from service.errors import SettingsError
from service.logs import log_event

_logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
CHECK_SECONDS: Final = 1.0
"""How often the file is looked at, at most: a mounted volume may be a network away."""
_SETTING: Final = "SONOTAG_API_KEYS_FILE"

Hexadecimal = Annotated[str, pydantic.StringConstraints(pattern=r"^([0-9a-f]{2})+$")]


class _LimitsModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    max_streams: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] | None = None
    requests_per_minute: Annotated[int, pydantic.Field(ge=1, le=60_000)] | None = None
    audio_seconds_per_day: Annotated[float, pydantic.Field(gt=0, le=1e12, allow_inf_nan=False)] | None = None


class _KeyModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    id: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, pydantic.StringConstraints(pattern=rf"^{KEY_NAME.pattern}$")]
    salt: Hexadecimal
    hash: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Scope]
    limits: _LimitsModel = _LimitsModel()
    created: str = ""


class _FileModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    version: Literal[1]
    keys: list[_KeyModel]


class KeyFile:
    """The keys of a file, as they are now: it is read anew when it has changed.

    A new content that cannot be read keeps the old keys, and the log says why, once.

    Args:
        path: The file.
        clock: Seconds, rising.

    Raises:
        SettingsError: It cannot be read.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._seen = _signature(path)
        self._keys = _by_id(read_keys(path))
        self._checked_at = clock()

    def current(self) -> Mapping[str, ApiKey]:
        """Return the keys by their ID."""
        now = self._clock()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._check()
        return self._keys

    def _check(self) -> None:
        seen = _signature(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = _by_id(read_keys(self._path))
        except SettingsError as error:
            log_event(_logger, logging.ERROR, "the API keys stay as they were", reason=error)
        else:
            log_event(_logger, logging.INFO, "API keys are read anew", keys=len(self._keys))


def read_keys(path: Path) -> list[ApiKey]:
    """Read a file of keys.

    Raises:
        SettingsError: It cannot be read, or is no file of keys; one line that holds nothing of what is in it.
    """
    try:
        document = _FileModel.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{_SETTING} is {str(path)!r}: {os.strerror(error.errno or 0)}") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{_SETTING} is {str(path)!r}: {where or 'it'}: {first['msg']}") from None
    keys = [
        ApiKey(
            id=key.id,
            name=key.name,
            salt=bytes.fromhex(key.salt),
            hash=bytes.fromhex(key.hash),
            scopes=frozenset(key.scopes),
            limits=Limits(**key.limits.model_dump()),
            created=key.created,
        )
        for key in document.keys
    ]
    for what in ("id", "name"):
        if len({getattr(key, what) for key in keys}) < len(keys):
            raise SettingsError(f"{_SETTING} is {str(path)!r}: two keys have the same {what}")
    return keys


@contextmanager
def changing_keys(path: Path) -> Iterator[list[ApiKey]]:
    """Yield the keys of a file, none where there is no file yet, and write them back; two changes at once do not mix.

    Raises:
        SettingsError: It cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(f"{_SETTING} is {str(path)!r}: {os.strerror(error.errno or 0)}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        _write_keys(path, keys)
        os.fsync(folder)
    except OSError as error:
        raise SettingsError(f"{_SETTING} is {str(path)!r}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(folder)


def _write_keys(path: Path, keys: Iterable[ApiKey]) -> None:
    """Write a file that only its owner reads: beside the old one, then in its place."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if path.exists():
                with suppress(PermissionError):  # an administrator changes the file of the service's user
                    os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
            json.dump({"version": FORMAT_VERSION, "keys": [_to_wire(key) for key in keys]}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _to_wire(key: ApiKey) -> dict[str, object]:
    limits = {name: getattr(key.limits, name) for name in _LimitsModel.model_fields}
    return {
        "id": key.id,
        "name": key.name,
        "salt": key.salt.hex(),
        "hash": key.hash.hex(),
        "scopes": sorted(key.scopes),
        "limits": {name: value for name, value in limits.items() if value is not None},
        "created": key.created,
    }


def _by_id(keys: Iterable[ApiKey]) -> dict[str, ApiKey]:
    return {key.id: key for key in keys}


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when the file does, also where a link is put in place of another, as Kubernetes does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
