"""How `sonotag listen --list-devices` prints the microphones that there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from service import exit_codes
from service.commands.devices import Device


def print_devices(devices: Sequence[Device], *, as_json: bool) -> int:
    """Print devices, one a line, and return the exit code: without one it is a failure that standard error tells."""
    for device in devices:
        print(json.dumps(asdict(device)) if as_json else _line(device))
    if devices:
        return exit_codes.OK
    print("sonotag listen: the system has no device that gives sound", file=sys.stderr)
    return exit_codes.FAILURE


def _line(device: Device) -> str:
    channels = "1 channel" if device.num_channels == 1 else f"{device.num_channels} channels"
    default = "  (default)" if device.is_default else ""
    return f"{device.index:3}  {device.name}  ({device.api}, {channels}, {device.sample_rate} Hz){default}"
