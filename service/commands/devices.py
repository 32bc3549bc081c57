"""The microphones that there are, and the one that is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.audio.formats import MAX_SAMPLE_RATE
from service.commands.portaudio import Backend, load_backend
from service.errors import InvalidParameter, ServiceError


class NoMicrophone(ServiceError):
    """There is no device to listen to, or it cannot be opened."""

    code = "no_microphone"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that gives sound.

    Attributes:
        index: PortAudio's number for it.
        name: Its name.
        api: The system's interface through which it is reached, such as ALSA; one device may be there through several.
        num_channels: How many it has at most; one that the system converts for claims many.
        sample_rate: Its own, Hz, or the largest that a stream may have.
        is_default: Whether it is the system's choice.
    """

    index: int
    name: str
    api: str
    num_channels: int
    sample_rate: int
    is_default: bool


def list_devices(backend: Backend) -> list[Device]:
    """Return the devices that give sound."""
    chosen = backend.default.device[0]
    return [
        Device(
            index=info["index"],
            name=info["name"],
            api=str(backend.query_hostapis(info["hostapi"])["name"]),
            num_channels=info["max_input_channels"],
            sample_rate=min(round(info["default_samplerate"]), MAX_SAMPLE_RATE),
            is_default=info["index"] == chosen,
        )
        for info in backend.query_devices()
        if info["max_input_channels"] > 0
    ]


def choose_device(devices: Sequence[Device], wanted: str | None) -> Device:
    """Return the device of a number or a name, or the system's choice.

    Args:
        devices: Those that there are.
        wanted: A number, a name, or a part of only one name, in any case; None for the system's choice.

    Raises:
        NoMicrophone: There is none at all.
        InvalidParameter: There is none like that, or more than one.
    """
    if not devices:
        raise NoMicrophone("there is no microphone: the system has no device that gives sound")
    if wanted is None:
        return next((device for device in devices if device.is_default), devices[0])
    name = wanted.casefold()
    ways: tuple[Callable[[Device], bool], ...] = (
        lambda device: str(device.index) == wanted,
        lambda device: device.name.casefold() == name,
        lambda device: name in device.name.casefold(),
    )
    found = next((some for way in ways if (some := [device for device in devices if way(device)])), [])
    if len(found) == 1:
        return found[0]
    # The same device through several interfaces: the system's choice is meant.
    if len({device.name for device in found}) == 1 and (default := [device for device in found if device.is_default]):
        return default[0]
    there = ", ".join(f"{device.index} {device.name!r}" for device in found or devices)
    many = "more than one device is like" if found else "there is no device like"
    raise InvalidParameter(f"{many} {wanted[:80]!r}: --device takes one of {there}", param="device")


class Microphone(NamedTuple):
    """A device, and what opens it."""

    backend: Backend
    device: Device


def find_microphone(wanted: str | None) -> Microphone:
    """Return what `choose_device` does of the devices of this machine.

    Raises:
        StartError: See `load_backend`.
        NoMicrophone: There is none at all.
        InvalidParameter: There is none like that, or more than one.
    """
    backend = load_backend()
    return Microphone(backend, choose_device(list_devices(backend), wanted))
