"""A bundle: a folder with an exported model and all that is needed to serve it.

``bundle.json`` is a `Manifest`; beside it lie ``model.<precision>.onnx`` for each precision it names, ``weights.bin`` where
these have weights in common, ``golden.npz`` (short real waveforms with their scores) and ``README.md`` (the model card).
`open_bundle` refuses what is incomplete, of another format version or altered; the golden check at load
(`service.inference.onnx_runner`) refuses what is wrong.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import pydantic

from service.errors import BundleError
from service.inference.runner import FloatArray, Int16Array, Int64Array, Precision, Provider
from service.inference.untrusted import check_graph_file, find_inside, load_arrays
from service.labels import LabelSet
from service.validation import describe_document

FORMAT_VERSION: Final = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 knew one length of window only, and its graphs take no other; up to version 2 every graph had all its weights."""
MANIFEST_FILE = "bundle.json"
GOLDEN_FILE = "golden.npz"
WEIGHTS_FILE = "weights.bin"
CARD_FILE = "README.md"
MAX_MANIFEST_BYTES = 4_000_000
MAX_GRAPH_BYTES = 64 * 1024**2
"""Of a graph beside its parameters: nodes and constants; the mel filters and the DFT take a few."""
FLOAT_BYTES = 4
SHARED_BYTES = 4 + 2 + 1
"""Of a parameter in the file of weights that graphs have in common: in float32, float16 and 8 bits, where none follows from
another."""
MAX_GOLDEN_ROWS = 256
MAX_GOLDEN_BYTES = 128 * 1024**2
"""Of one array, unpacked: zeros pack a thousandfold. The exporter's four waveforms of ten minutes at 16 kHz take 77 MB."""
MAX_WINDOW_SECONDS = 600
MAX_SAMPLE_RATE = 192_000
MAX_HIDDEN_SIZE = 65_536
"""Of an embedding, for which memory is set aside; as the exporter takes."""
MAX_LENGTHS = 8
"""Each is warmed up and proved at load, in every batch size."""

Sha256 = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Label(_Frozen):
    """A label with its id, which is its place in the head."""

    id: int
    label: str


class Architecture(_Frozen):
    """The numbers of the network."""

    model_type: Literal["audio-spectrogram-transformer"] = "audio-spectrogram-transformer"
    hidden_size: Annotated[int, pydantic.Field(ge=1, le=MAX_HIDDEN_SIZE)]
    num_layers: int
    num_heads: int
    mlp_size: int
    patch_size: int
    frequency_stride: int
    time_stride: int
    num_mel_bins: int
    max_length: int
    num_parameters: int


class Source(_Frozen):
    """Where the weights came from."""

    name: str
    format: Literal["transformers", "original"]
    sha256: Sha256
    licence: str


class ParityCheck(_Frozen):
    """One comparison that export made: what was measured, and the limit it had to keep (None: reported only).

    ``at_least`` says that the limit is a floor (agreement, for instance) and not a ceiling.
    """

    check: str
    signal: str
    measured: float
    limit: float | None
    at_least: bool = False


class Parity(_Frozen):
    """What export measured for one precision, and where. ``final`` is False where the provider that will serve this
    precision was not there (float16 measured on the CPU): then the golden check at load is what counts."""

    provider: Provider
    final: bool
    checks: tuple[ParityCheck, ...]


class PrecisionEntry(_Frozen):
    """One exported graph.

    ``golden_tolerance`` is the largest difference of a score from the golden ones that the check at load allows.
    """

    file: FileName
    sha256: Sha256
    operators: Literal["fused", "portable"]
    golden_tolerance: float
    parity: Parity


class Manifest(_Frozen):
    """``bundle.json``."""

    format_version: Literal[1, 2, 3]
    name: Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    architecture: Architecture
    labels: tuple[Label, ...]
    activation: Literal["sigmoid", "softmax"]
    sample_rate: Annotated[int, pydantic.Field(ge=1)]
    window_samples: Annotated[int, pydantic.Field(ge=1)]
    windows_samples: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = ()
    """The lengths that every graph takes, rising to ``window_samples``; none in version 1, which has that one alone."""
    hop_samples: Annotated[int, pydantic.Field(ge=1)]
    min_samples: Annotated[int, pydantic.Field(ge=1)]
    opset: int
    source: Source
    tools: dict[str, str]
    golden_sha256: Sha256
    weights_sha256: Sha256 | None = None
    """Of the file of weights that the graphs have in common; None where there is none."""
    precisions: dict[Precision, PrecisionEntry]
    preferred: dict[Provider, tuple[Precision, ...]]
    """For each provider the precisions it serves well, best first; `auto` takes the first that the bundle holds."""

    @pydantic.model_validator(mode="after")
    def _check_consistency(self) -> Manifest:
        if not self.labels or [label.id for label in self.labels] != list(range(len(self.labels))):
            raise ValueError("labels: ids must be 0, 1, 2, ... in order")
        if not self.precisions:
            raise ValueError("precisions: the bundle holds none")
        if self.sample_rate > MAX_SAMPLE_RATE or self.window_samples > MAX_WINDOW_SECONDS * self.sample_rate:
            raise ValueError(f"sample_rate is above {MAX_SAMPLE_RATE} Hz, or the window longer than {MAX_WINDOW_SECONDS} s")
        if not self.min_samples <= self.window_samples:
            raise ValueError("min_samples is above window_samples")
        lengths = self.lengths_samples
        if list(lengths) != sorted(set(lengths)) or lengths[-1] != self.window_samples or lengths[0] < self.min_samples:
            raise ValueError("windows_samples must rise from min_samples or more to window_samples")
        if len(lengths) > MAX_LENGTHS:
            raise ValueError(f"windows_samples has {len(lengths)} lengths, at most {MAX_LENGTHS} are served")
        return self

    @property
    def lengths_samples(self) -> tuple[int, ...]:
        """The lengths of window that the graphs take, rising; the last one is the longest window."""
        return self.windows_samples or (self.window_samples,)


@dataclass(frozen=True, slots=True)
class Golden:
    """Short real waveforms with their scores at one length of window, computed by torch in float32 when the bundle was made.

    Attributes:
        waveform: int16 `[n, samples]`.
        lengths: int64 `[n]`, valid samples of each row.
        scores: float32 `[n, labels]`.
    """

    waveform: Int16Array
    lengths: Int64Array
    scores: FloatArray


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: manifest read, files present, hashes right.

    Attributes:
        folder: Where it lies. Never sent to a client.
        manifest: Its ``bundle.json``.
    """

    folder: Path
    manifest: Manifest

    @property
    def labels(self) -> LabelSet:
        """The labels, in the head's order."""
        return LabelSet(tuple(label.label for label in self.manifest.labels))

    @property
    def sha256(self) -> str:
        """Hash of ``bundle.json``, which has those of all other files: another one is another bundle."""
        return hash_file(self.folder / MANIFEST_FILE)

    def choose_precision(
        self, provider: Provider, wanted: Precision | Literal["auto"], slow: Collection[Precision] = ()
    ) -> Precision:
        """Return the precision to serve on a provider.

        Args:
            provider: Where.
            wanted: What the caller says; ``auto`` takes the best that the bundle lists for the provider.
            slow: What this machine does slowly: taken only where there is nothing else.

        Raises:
            BundleError: The bundle does not hold the wanted one, or none that serves on this provider.
        """
        held = self.manifest.precisions
        if wanted != "auto":
            if wanted not in held:
                raise BundleError(
                    f"bundle {self.manifest.name!r} holds {', '.join(sorted(held))}, not {wanted} (SONOTAG_PRECISION)"
                )
            return wanted
        # TensorRT runs on the GPUs that CUDA does: what a bundle lists for those it lists for it.
        listed = self.manifest.preferred.get("cuda" if provider == "tensorrt" else provider, ())
        for precision in sorted(listed, key=lambda each: each in slow):
            if precision in held:
                return precision
        raise BundleError(
            f"bundle {self.manifest.name!r} holds {', '.join(sorted(held))}, none of which it lists for {provider}"
        )

    def model_path(self, precision: Precision) -> Path:
        """Return the path of one precision's graph; `precision` must be one the manifest names."""
        return self.folder / self.manifest.precisions[precision].file

    def load_golden(self, num_samples: int | None = None) -> Golden:
        """Read ``golden.npz``: the waveforms, of which a shorter length takes the beginnings, and the scores of one length.

        Args:
            num_samples: One of the manifest's lengths; None for the longest.

        Raises:
            BundleError: It cannot be read, or its shapes do not fit the manifest.
        """
        manifest = self.manifest
        length = num_samples or manifest.window_samples
        name = "scores" if length == manifest.window_samples else golden_scores_name(length)
        try:
            max_bytes = {
                "waveform": MAX_GOLDEN_ROWS * manifest.window_samples * 2,
                "lengths": MAX_GOLDEN_ROWS * 8,
                name: MAX_GOLDEN_ROWS * len(manifest.labels) * 4,
            }
            with (self.folder / GOLDEN_FILE).open("rb") as file:
                arrays = load_arrays(file, {name: min(limit, MAX_GOLDEN_BYTES) for name, limit in max_bytes.items()})
            golden = Golden(arrays["waveform"], arrays["lengths"], arrays[name])
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"bundle {manifest.name!r}: {GOLDEN_FILE} cannot be read: {error}") from error
        count = golden.lengths.size
        fits = (
            count > 0
            and golden.lengths.dtype == np.int64
            and golden.lengths.shape == (count,)
            and golden.waveform.dtype == np.int16
            and golden.waveform.shape == (count, manifest.window_samples)
            and golden.scores.dtype == np.float32
            and golden.scores.shape == (count, len(manifest.labels))
            and golden.lengths.min() >= manifest.min_samples
            and golden.lengths.max() <= manifest.window_samples
        )
        if not fits:
            raise BundleError(f"bundle {manifest.name!r}: {GOLDEN_FILE} does not fit bundle.json")
        waveform = np.ascontiguousarray(golden.waveform[:, :length])
        return Golden(waveform, np.minimum(golden.lengths, length), golden.scores)


def golden_scores_name(length_samples: int) -> str:
    """Return the name, in ``golden.npz``, of the scores at a length shorter than the longest window, whose are ``scores``."""
    return f"scores_{length_samples}"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest and check every file that it names.

    Args:
        folder: The bundle's folder.

    Raises:
        BundleError: It is no bundle, of another format version, incomplete or altered; the message says which.
    """
    path = find_inside(folder, MANIFEST_FILE)
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST_FILE}")
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    version = re.search(rb'"format_version"\s*:\s*(\d+)', text)
    if version and int(version[1]) not in READABLE_VERSIONS:
        readable = f"{', '.join(map(str, READABLE_VERSIONS[:-1]))} and {READABLE_VERSIONS[-1]}"
        raise BundleError(
            f"{folder} is of bundle format {int(version[1])}; this version of Sonotag reads {readable}: export it again"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise BundleError(f"{path} does not describe a bundle: {describe_document(error)}") from error
    expected = {entry.file: entry.sha256 for entry in manifest.precisions.values()} | {GOLDEN_FILE: manifest.golden_sha256}
    if manifest.weights_sha256 is not None:
        expected[WEIGHTS_FILE] = manifest.weights_sha256
    for name, sha256 in expected.items():
        file = find_inside(folder, name)
        if not file.is_file():
            raise BundleError(f"bundle {manifest.name!r} is incomplete: {name} is missing from {folder}")
        if hash_file(file) != sha256:
            raise BundleError(f"bundle {manifest.name!r} is altered: {name} is not the file that export wrote")
    weights = folder / WEIGHTS_FILE if manifest.weights_sha256 is not None else None
    if weights is not None:
        _check_size(weights, manifest, SHARED_BYTES)
    for entry in manifest.precisions.values():
        _check_size(folder / entry.file, manifest, FLOAT_BYTES)
        check_graph_file(folder / entry.file, weights)
    return Bundle(folder, manifest)


def _check_size(path: Path, manifest: Manifest, parameter_bytes: int) -> None:
    """Refuse a file that is larger than the model's parameters, of so many bytes each, and what comes with them.

    Raises:
        BundleError: It is.
    """
    expected = parameter_bytes * manifest.architecture.num_parameters + MAX_GRAPH_BYTES
    if (size := path.stat().st_size) > expected:
        raise BundleError(
            f"bundle {manifest.name!r}: {path.name} has {size} bytes, its {manifest.architecture.num_parameters} parameters "
            f"take at most {expected}"
        )
