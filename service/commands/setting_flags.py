"""Flags for settings, shared by the commands that take them: `--port` is SONOTAG_PORT."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from typing import Any

from service.logs import configure_logging
from service.settings import Settings, describe_range
from service.settings_source import find_unknown_variables, flag_of, format_value, is_secret, load_settings, variable_of

PREFIX = "setting_"
_logger = logging.getLogger(__name__)


def add_setting_flags(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add one flag for each setting.

    Args:
        parser: Where to.
        names: Fields of `Settings`; all of them when not given.
    """
    group = parser.add_argument_group("settings", "each one also as a variable SONOTAG_..., in the environment or in .env")
    for name in Settings.model_fields if names is None else names:
        info = Settings.model_fields[name]
        default = format_value(info.get_default(call_default_factory=True))
        shown = "" if is_secret(name) or not default else f" Default: {default}."
        text = f"{info.description} {variable_of(name)}, {describe_range(name)}.{shown}"
        metavar = name.split("_")[-1].upper()
        # `--insecure` alone is true.
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if info.annotation is bool else {}
        group.add_argument(flag_of(name), dest=PREFIX + name, metavar=metavar, help=text.replace("%", "%%"), **switch)


def read_settings(args: argparse.Namespace, *, quiet: bool = False) -> Settings:
    """Read the settings that the flags, the environment and `.env` give, and start logging as they say.

    Args:
        args: Parsed, with the flags of `add_setting_flags`.
        quiet: Log warnings and errors only, where nobody chose a level: for commands whose output is their result.

    Raises:
        SettingsError: A value is not allowed.
    """
    flags = {
        name.removeprefix(PREFIX): value for name, value in vars(args).items() if name.startswith(PREFIX) and value is not None
    }
    settings = load_settings(flags)
    is_chosen = "log_level" in settings.origins
    configure_logging(settings.log_format, "warning" if quiet and not is_chosen else settings.log_level)
    for warning in find_unknown_variables():
        _logger.warning(warning)
    return settings
