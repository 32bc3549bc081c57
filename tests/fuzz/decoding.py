"""Broken files through the real decoder processes: each is sound or a documented error, as a file and as its stream."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.audio.intake import ContainerIntake
from service.decoders.nursery import Nursery
from service.decoders.pool import DecoderLimits, DecoderPool
from service.errors import DecodingFailed, NotStreamable, ServiceError, UndecodableAudio, UnsupportedAudio
from tests.fuzz.corpus import damaged

Int16Array = npt.NDArray[np.int16]

RATE = 16_000
MAX_SAMPLES = 60 * RATE
"""Where a service would say that the clip is too long."""
REJECTIONS = (UndecodableAudio, UnsupportedAudio, DecodingFailed)
LIMITS = DecoderLimits(max_files=4, max_streams=4, timeout_seconds=20.0, memory_bytes=256 * 1024**2, wait_seconds=60.0)
SAME_SOUND = frozenset({"wav", "aiff", "flac"})
"""Containers of which a file and its stream must give the same however they are damaged. (In the others FFmpeg's demuxers look
around in a file with an index at its end.)"""


class Campaign:
    """Decodes damaged files and counts what came of it.

    Args:
        nursery: Makes the processes.
        folder: Where an input that breaks the promise is kept.
    """

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self.num_cases = 0
        self.broken: list[str] = []
        self._pool = DecoderPool(LIMITS, nursery, lambda failure: self.outcomes.update([f"decoder {failure}"]))
        self._folder = folder

    def run(self, files: dict[str, bytes], num_cases: int, seed: int) -> None:
        """Decode damaged variants of real files, in turns, each as a file and as a stream."""
        streams = {name: damaged(data, num_cases, seed + index) for index, (name, data) in enumerate(files.items())}
        for case in range(-(-num_cases // 2)):
            name = list(files)[case % len(files)]
            self.try_file(f"{name}-{seed}-{case}", next(streams[name]))

    def try_file(self, name: str, data: bytes) -> None:
        """Decode one, both ways. (A stream of no bytes is no error, a file of none is.)"""
        as_file, as_stream = self._outcome(name, data, is_stream=False), self._outcome(name, data, is_stream=True)
        suffix = Path(name.split("-")[0]).suffix[1:]
        if data and suffix in SAME_SOUND and not _is_same(as_file, as_stream):
            self._keep(name, data, f"file {_describe(as_file)}, stream {_describe(as_stream)}")

    def close(self) -> None:
        """Let the processes go."""
        self._pool.close()

    def _outcome(self, name: str, data: bytes, *, is_stream: bool) -> Int16Array | str:
        try:
            samples = self._stream(data) if is_stream else self._file(data)
        except REJECTIONS as error:
            outcome: Int16Array | str = "not_streamable" if isinstance(error, NotStreamable) else error.code
        except ServiceError as error:
            self._keep(name, data, f"{error.code}: {error.message}")
            outcome = error.code
        else:
            outcome = samples
        self.outcomes[outcome if isinstance(outcome, str) else "sound"] += 1
        self.num_cases += 1
        return outcome

    def _file(self, data: bytes) -> Int16Array:
        sound = self._pool.open_file(io.BytesIO(data), channel=None, target_rate=RATE, observe=lambda *_: None)
        try:
            return _collect(sound.samples())
        finally:
            sound.close()

    def _stream(self, data: bytes) -> Int16Array:
        intake = ContainerIntake(channel=None, target_rate=RATE, make_decoder=self._pool.stream_decoder)
        try:
            return _collect(piece for part in (intake.push(data), intake.finish()) for piece in part)
        finally:
            intake.close()

    def _keep(self, name: str, data: bytes, why: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name.replace("/", "_").replace(" ", "_")
        path.write_bytes(data)
        self.broken.append(f"{path}: {why}")


def _collect(pieces: Iterator[Int16Array]) -> Int16Array:
    taken, count = [np.zeros(0, np.int16)], 0
    for piece in pieces:
        taken.append(piece)
        count += len(piece)
        if count > MAX_SAMPLES:
            break
    return np.concatenate(taken)[:MAX_SAMPLES]


def _is_same(one: Int16Array | str, other: Int16Array | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        # An error that comes after some sound is told after it: how much, is the stream's business.
        return isinstance(one, str) == isinstance(other, str)
    return np.array_equal(one, other)


def _describe(outcome: Int16Array | str) -> str:
    return outcome if isinstance(outcome, str) else f"{len(outcome)} samples"
