"""What there is to measure on, and whether it can be: `python -m bench.gpu.machine`, a matter of seconds.

It is the first part of `bench.gpu`: a library that is missing, or does not fit the driver, costs seconds there and not minutes.
"""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import asdict, dataclass
from typing import Final

import onnxruntime
import torch

from bench.command import run_measurement
from bench.contestants import Device
from bench.gpu.settings import add_flags
from service.errors import StartError
from service.gpus import GpuReader
from service.inference.providers import find_obstacle
from service.machine import count_usable_cores, read_processor_name

SERVING: Final = ("service.app", "service.bench.benchmark", "service.commands.serve", "service.commands.bench")
"""What the parts with a service import, in processes that tell less."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Attributes:
        gpu: What the device calls itself and its memory; None without one.
        cores: That may be used here.
        processor: Of the machine.
        versions: Of what measures, by name.
        serving: Why no service can run here, or nothing.
    """

    gpu: str | None
    cores: int
    processor: str
    versions: dict[str, str]
    serving: str

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.gpu or 'No GPU'}; {self.cores} cores of {self.processor}; {versions}"


def look(device: Device) -> Measured:
    """Return what is here.

    Raises:
        StartError: Nothing can be measured on the device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise StartError(f"torch {torch.__version__} finds no GPU here")
    if device == "cuda" and (obstacle := find_obstacle("cuda")):
        raise StartError(f"onnxruntime cannot use CUDA here: {obstacle}")
    versions = {"Python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    gpu = None
    if device == "cuda":
        versions["CUDA"] = str(torch.version.cuda)
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        if not GpuReader().read():
            gpu += " (not watched: nvidia-ml-py is missing or finds no driver)"
    return Measured(gpu, count_usable_cores(), read_processor_name(), versions, find_missing())


def find_missing(modules: tuple[str, ...] = SERVING) -> str:
    """Return why what serves cannot be imported, or nothing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            return str(error)
    return ""


def to_markdown(measured: Measured) -> str:
    """Return it as lines."""
    missing = f"\nNo service can run here: {measured.serving}." if measured.serving else ""
    return f"{measured}.{missing}\n"


def main() -> int:
    """Look and print."""
    return run_measurement(
        "bench.gpu.machine",
        lambda args: look(args.device),
        seconds=1.0,
        to_numbers=lambda measured: asdict(measured) | {"summary": str(measured)},
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
