"""Read the settings, say where each came from, and make one line of whatever is wrong with them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pydantic
from dotenv import dotenv_values

from service.errors import SettingsError
from service.settings import DOTENV_FILE, EMBEDDED_BUNDLE, PREFIX, Settings, describe_range

HIDDEN = "(hidden)"
CLIENT_KEY = PREFIX + "API_KEY"
"""No setting of a service: the key that the command line and the client send to one."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, for people.

    Attributes:
        name: The variable, `SONOTAG_PORT`.
        flag: The flag, `--port`.
        value: What holds, as it would be written; a secret is `(hidden)`.
        origin: `flag`, `environment`, `.env` or `default`.
        default: Its default.
        allowed: Its range, in words.
        meaning: What it does and why its default is what it is.
    """

    name: str
    flag: str
    value: str
    origin: str
    default: str
    allowed: str
    meaning: str


def variable_of(name: str) -> str:
    """Return a field's environment variable."""
    return PREFIX + name.upper()


def flag_of(name: str) -> str:
    """Return a field's flag."""
    return "--" + name.replace("_", "-")


def load_settings(flags: Mapping[str, str], *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        flags: What the command line gave: a field's name to its text. They win over everything else.
        environ: The environment, for `origins` only; the process's own when it is not given.

    Raises:
        SettingsError: A value is not allowed; one line with its name, its value and its range.
    """
    unknown = sorted(set(flags) - set(Settings.model_fields))
    if unknown:
        known = [flag_of(name) for name in Settings.model_fields]
        raise SettingsError(f"there is no setting {flag_of(unknown[0])}{_nearest(flag_of(unknown[0]), known)}")
    origins = _find_origins(flags, os.environ if environ is None else environ, _read_dotenv())
    try:
        settings = Settings(**flags)  # type: ignore[arg-type]  # text is what a flag gives; pydantic parses it
    except pydantic.ValidationError as error:
        raise SettingsError("; ".join(_describe_error(details, origins) for details in error.errors())) from error
    return settings.with_origins(origins)


def explain(settings: Settings) -> list[SettingRow]:
    """Return every setting with its value, origin and meaning, in the order of their definition."""
    return [
        SettingRow(
            name=variable_of(name),
            flag=flag_of(name),
            value=HIDDEN if is_secret(name) else format_value(getattr(settings, name)),
            origin=settings.origins.get(name, "default"),
            default=format_value(info.get_default(call_default_factory=True)),
            allowed=describe_range(name),
            meaning=info.description or "",
        )
        for name, info in Settings.model_fields.items()
    ]


def format_markdown(rows: list[SettingRow]) -> str:
    """Return the settings as a table for the README: variable, default, range, meaning."""
    lines = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for row in rows:
        # The embedded bundle's folder is a path of this machine.
        default = row.default.replace(str(EMBEDDED_BUNDLE.folder), f"service/bundles/{EMBEDDED_BUNDLE.name}")
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{row.name}` | {shown} | {row.allowed} | {row.meaning} |")
    return "\n".join(lines)


def find_unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return one warning for each `SONOTAG_...` variable, also of the `.env` file, that is no setting."""
    inherited = os.environ if environ is None else environ
    given = {**_read_dotenv(), **{name: value for name, value in inherited.items() if name.upper() != CLIENT_KEY}}
    known = [variable_of(name) for name in Settings.model_fields]
    return [
        f"{variable} is no setting and has no effect{_nearest(variable.upper(), known)}"
        for variable in sorted(given)
        if variable.upper().startswith(PREFIX) and variable.upper() not in known
    ]


def is_secret(name: str) -> bool:
    """Return whether a field's value must never be shown."""
    annotation = Settings.model_fields[name].annotation
    secrets = (pydantic.SecretStr, pydantic.SecretBytes)
    return any(kind in secrets for kind in (annotation, *get_args(annotation)))


def format_value(value: object) -> str:
    """Return a value as it would be written in a variable; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump_json(exclude_none=True)
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def _read_dotenv() -> dict[str, str]:
    path = Path(DOTENV_FILE)
    try:
        return {name: value for name, value in dotenv_values(path).items() if value} if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the file {DOTENV_FILE} cannot be read: {error}") from error


def _find_origins(flags: Mapping[str, str], environ: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, str]:
    variables = {name.upper() for name, value in environ.items() if value}
    lines = {name.upper() for name in dotenv}
    origins: dict[str, str] = {}
    for name in Settings.model_fields:
        if name in flags:
            origins[name] = "flag"
        elif variable_of(name) in variables:
            origins[name] = "environment"
        elif variable_of(name) in lines:
            origins[name] = DOTENV_FILE
    return origins


def _describe_error(details: Mapping[str, object], origins: Mapping[str, str]) -> str:
    location = details["loc"]
    assert isinstance(location, tuple)
    name, *inside = (str(part) for part in location)
    origin = origins.get(name, "environment")
    written = flag_of(name) if origin == "flag" else variable_of(name) + (" in .env" if origin == DOTENV_FILE else "")
    value = HIDDEN if is_secret(name) else repr(details["input"])[:200]
    message = str(details["msg"]).removeprefix("Value error, ")
    where = f" at {'.'.join(inside)}" if inside else ""
    return f"{written} is {value}{where}: {message[:1].lower()}{message[1:]}; allowed is {describe_range(name)}"


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest else ""
