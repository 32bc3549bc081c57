"""What is used of the library sounddevice, which reaches PortAudio; loaded only where a microphone is listened to."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict, cast

from service.errors import StartError


class DeviceInfo(TypedDict):
    """What sounddevice tells of a device."""

    index: int
    name: str
    hostapi: int
    max_input_channels: int
    default_samplerate: float


class Stream(Protocol):
    """An open device of sounddevice's."""

    def start(self) -> None:
        """Let sound come."""
        ...

    def close(self) -> None:
        """Close the device; waits for a callback that runs."""
        ...


class Flags(Protocol):
    """What PortAudio says beside a piece of sound."""

    input_overflow: bool


class DefaultDevices(Protocol):
    """The system's choice of devices: for sound that comes, and for sound that goes; -1 for none."""

    device: Sequence[int]


class Backend(Protocol):
    """What is used of the module `sounddevice`."""

    default: DefaultDevices
    PortAudioError: type[Exception]

    def query_devices(self) -> Sequence[DeviceInfo]:
        """Return every device."""
        ...

    def query_hostapis(self, index: int) -> dict[str, object]:
        """Return what is known of an interface of the system's."""
        ...

    def RawInputStream(  # noqa: N802  # its name
        self,
        *,
        device: int,
        samplerate: int,
        channels: int,
        blocksize: int,
        dtype: str,
        latency: str,
        callback: Callable[[bytes, int, object, Flags], None],
        finished_callback: Callable[[], None],
    ) -> Stream:
        """Open a device."""
        ...


def load_backend() -> Backend:
    """Return sounddevice.

    Raises:
        StartError: It, or what it needs, is not installed.
    """
    try:
        return cast(Backend, importlib.import_module("sounddevice"))
    except ModuleNotFoundError as error:
        raise StartError("a microphone needs the extra mic: pip install 'sonotag[mic]'") from error
    except OSError as error:
        raise StartError(f"a microphone needs PortAudio (Debian's package libportaudio2): {error}") from error
