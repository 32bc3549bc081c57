"""Which execution provider serves: what is wanted, what this machine really has, and why not.

onnxruntime-gpu lists CUDA as available on machines that have none, and falls back to the CPU with a message on stderr.
So a session is made and asked what it got, quietly, and the reason is looked up when the answer matters.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib.util
import io
import logging
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from service.errors import ProviderError
from service.inference.reason import read_reason
from service.inference.runner import Precision, Provider

logger = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}
"""The names that Linux has for these instructions in ``/proc/cpuinfo``."""
EXECUTION_PROVIDERS: dict[Provider, str] = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

CUDA_OPTIONS = {
    # The log-mel front end squares a spectrum and takes its logarithm: with TF32's ten bits the quiet bands are lost.
    "use_tf32": "0",
    # EXHAUSTIVE, the default, times every convolution algorithm for every batch size at start; AST's two convolutions are
    # less than four hundredths of its time.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Doubling, the default, takes up to twice the memory that is needed; worker processes share one GPU.
    "arena_extend_strategy": "kSameAsRequested",
}

# onnx.helper: Neg on one float, opset 17. It runs a kernel, so a library without code for this GPU is found out too.
_PROBE = base64.b64decode("CAgSADoyCgsKAXgSAXkiA05lZxIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBE=")

_QUIET, _WARNING = 4, 2

_CUDA_LIBRARIES = ("cublasLt", "cublas", "nvrtc", "curand", "cufft", "cudart", "cudnn")
"""What onnxruntime loads of CUDA, what others need first. Source: `onnxruntime.preload_dlls`."""


def choose_provider(wanted: Literal["auto", "cpu", "cuda", "tensorrt"]) -> Provider:
    """Return the provider to serve on.

    Args:
        wanted: ``auto`` takes CUDA where a session really gets it, else the CPU, with a warning where an NVIDIA device is.

    Raises:
        ProviderError: CUDA or TensorRT was asked for and cannot be had; the message says why.
    """
    if wanted == "cpu":
        return "cpu"
    reason = find_obstacle("cuda")
    if wanted == "tensorrt":
        if (reason := reason or find_obstacle("tensorrt")) is not None:
            raise ProviderError(f"TensorRT cannot be had: {reason} (SONOTAG_PROVIDER is tensorrt; cuda does without it)")
        return "tensorrt"
    if reason is None:
        return "cuda"
    if wanted == "cuda":
        raise ProviderError(f"CUDA cannot be had: {reason} (SONOTAG_PROVIDER is cuda; auto takes the CPU instead)")
    if has_nvidia_device():
        logger.warning("this machine has an NVIDIA device, but models run on the CPU: %s", reason)
    return "cpu"


def find_obstacle(provider: Literal["cuda", "tensorrt"]) -> str | None:
    """Return why a session does not get a provider here, or None when one does. Makes a session and runs it once."""
    wanted = EXECUTION_PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without it (install onnxruntime-gpu)"
    prepare_cuda()
    try:
        session = create_session(_PROBE, provider, num_threads=1)
        result = session.run(None, {"x": np.ones(1, np.float32)})[0]
    except Exception as error:  # noqa: BLE001  (onnxruntime's own classes have no common parent below Exception)
        return read_reason(error)
    if session.get_providers()[0] != wanted:
        return _find_library_error(provider) or "onnxruntime gave a session without it and no reason"
    if result[0] != -1:
        return f"the GPU computes -1 as {result[0]}"
    return None


def create_session(
    model: str | bytes,
    provider: Provider,
    *,
    num_threads: int,
    cuda_graphs: bool = False,
    engine_options: Mapping[str, str] | None = None,
    arena_bytes: int | None = None,
) -> onnxruntime.InferenceSession:
    """Make a session with the options that serve best. It may have fallen back to the CPU: ask its `get_providers`.

    Args:
        model: A path, or the model's bytes.
        provider: Where it is to run.
        num_threads: Threads for operators on the CPU, the calling one included.
        cuda_graphs: Whether runs may be captured as CUDA graphs (`service.inference.cuda_lanes`); those of one session then
            share a stream, and a run that names no graph must say so (`service.inference.bound_run.NO_GRAPH`).
        engine_options: TensorRT's, see `service.inference.tensorrt`.
        arena_bytes: GPU memory that it may hold; None for whatever there is.

    Raises:
        Exception: onnxruntime cannot load the model, or CUDA fails otherwise than by missing libraries.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from those that decode sound and serve sockets: with two busy cores a
    # window of the embedded model cost 55 ms of processor time instead of 30, and twice the time on the clock.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if provider != "cpu":
        providers.insert(0, (CUDA, cuda_options(cuda_graphs=cuda_graphs, arena_bytes=arena_bytes)))
    if provider == "tensorrt":
        providers.insert(0, (TENSORRT, dict(engine_options or {})))
    with _quiet():
        # Without enable_fallback=False a failing provider prints to stdout and is replaced.
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=False)


def cuda_options(*, cuda_graphs: bool, arena_bytes: int | None) -> dict[str, str]:
    """Return the options of CUDA for a session; see `create_session`."""
    options = dict(CUDA_OPTIONS)
    if cuda_graphs:
        options["enable_cuda_graph"] = "1"
    if arena_bytes is not None:
        options["gpu_mem_limit"] = str(arena_bytes)
    return options


def has_byte_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies and adds bytes in one instruction (VNNI on x86, the dot product on ARM).

    Without it 8-bit products are no faster than float32 ones, and on x86 their sums of two can overflow. It is looked up and
    not measured: all workers, and every start, have to choose alike.
    """
    try:
        lines = cpuinfo.read_text().lower().splitlines()
    except OSError:  # no Linux
        return platform.machine().lower() in ("arm64", "aarch64")
    flags = {flag for line in lines if line.startswith(("flags", "features")) for flag in line.partition(":")[2].split()}
    return not flags.isdisjoint(BYTE_PRODUCTS)


def slow_precisions() -> tuple[Precision, ...]:
    """Return what this CPU does slowly, and so only where it is asked to."""
    return () if has_byte_products() else ("int8",)


def has_nvidia_device() -> bool:
    """Return whether the kernel shows an NVIDIA device, whatever libraries are installed."""
    return Path("/proc/driver/nvidia").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def prepare_cuda() -> None:
    """Load the CUDA libraries of the extra ``cuda``, or of torch, which lie where the dynamic linker does not look.

    onnxruntime itself finds them beside itself only, and not where it was installed into another folder than they were, as by
    ``pip install --target``.
    """
    if not hasattr(onnxruntime, "preload_dlls"):
        return
    for library in find_cuda_libraries(_nvidia_folders()):
        with contextlib.suppress(OSError):  # of another machine's kind; what is missing then, a session says
            ctypes.CDLL(str(library))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _quiet():
        onnxruntime.preload_dlls(directory="")
    logger.debug("loading the CUDA libraries: %s", said.getvalue().strip() or "all there")


def find_cuda_libraries(folders: Iterable[Path]) -> list[Path]:
    """Return the CUDA libraries of NVIDIA's packages, in the order in which they must be loaded.

    Args:
        folders: What Python takes for the package ``nvidia``; the first that has a library counts.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for library in sorted(folder.glob("*/lib/lib*.so.*")):
            if (match := re.fullmatch(r"lib(\w+)\.so\.\d+", library.name)) and match[1] in _CUDA_LIBRARIES:
                found.setdefault(library.name, library)
    return sorted(found.values(), key=lambda library: _CUDA_LIBRARIES.index(library.name.removeprefix("lib").partition(".")[0]))


def _nvidia_folders() -> list[Path]:
    try:
        spec = importlib.util.find_spec("nvidia")
    except ValueError:  # somebody made a module of that name
        return []
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]


def _find_library_error(provider: Literal["cuda", "tensorrt"]) -> str | None:
    """Return which library a provider misses, or None when it loads."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        where = (
            "the extra sonotag[cuda] brings the CUDA libraries" if provider == "cuda" else "TensorRT 10 is NVIDIA's to install"
        )
        return f"{read_reason(error)} ({where})"
    return None if has_nvidia_device() else "there is no NVIDIA device"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's default logger, which no session option reaches, from writing its guesses to stderr."""
    onnxruntime.set_default_logger_severity(_QUIET)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
