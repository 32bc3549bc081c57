"""The forms in which a caller has sound, and the bytes that are sent of them."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soundfile

from service.audio.formats import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.errors import InvalidParameter
from service.streaming.messages import ClientMessage

Array: TypeAlias = npt.NDArray[np.generic]
Clip: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Array
"""A path, the bytes of a file, a seekable open file, or samples: float in [-1, 1] or int16, `[n]` or `[n, channels]`."""
Frame: TypeAlias = bytes | ClientMessage
"""Sound, or what is said between it: `Update`, `Flush`, `KeepAlive` of `service.streaming.messages`."""
LiveSource: TypeAlias = Clip | Iterable[Frame] | AsyncIterable[Frame]

PIECE_BYTES = 64 * 1024
"""Of one read and one frame; far below the largest frame that a server takes."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The body of a request, which can be sent more than once.

    Attributes:
        path: Where the bytes are.
        file: Or the file that they are in; the caller's, who leaves it alone meanwhile.
    """

    path: Path | None
    file: IO[bytes] | None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the first one on.

        Raises:
            OSError: The file cannot be read.
        """
        with ExitStack() as stack:
            if self.path is not None:
                path = self.path
                file: IO[bytes] = stack.enter_context(await asyncio.to_thread(lambda: path.open("rb")))
            else:
                assert self.file is not None
                file = self.file
                file.seek(0)
            while data := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield data

    async def num_bytes(self) -> int:
        """Return how many bytes there are.

        Raises:
            OSError: There is no such file, or it is not readable.
        """
        if self.file is not None:
            return self.file.seek(0, os.SEEK_END)
        assert self.path is not None
        path = self.path
        return (await asyncio.to_thread(path.stat)).st_size


def make_payload(clip: Clip, sample_rate: int | None) -> Payload:
    """Return what is sent of a clip; samples are sent as a WAV file.

    Raises:
        InvalidParameter: It is none of the forms of a clip; a file that is closed or read as text; samples without a sample
            rate, of another type or another shape.
    """
    if isinstance(clip, np.ndarray):
        file = io.BytesIO()
        is_integer, samples, rate = _check(clip, sample_rate)
        soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if is_integer else "FLOAT")
        return Payload(None, file)
    if not (isinstance(clip, (str, os.PathLike, bytes)) or hasattr(clip, "read")):
        raise InvalidParameter(
            f"the clip is a {type(clip).__name__}; expected is a path, the bytes of a file, a file that is open for reading "
            "bytes, or samples as a NumPy array"
        )
    if sample_rate is not None:
        raise InvalidParameter("sample_rate goes with an array of samples: a file tells its own", param="sample_rate")
    if isinstance(clip, bytes):
        return Payload(None, io.BytesIO(clip))
    if isinstance(clip, (str, os.PathLike)):
        return Payload(Path(clip), None)
    _check_file(clip)
    return Payload(None, clip)


def open_live(source: LiveSource, fields: dict[str, object]) -> AsyncIterator[Frame]:
    """Return the frames of a stream; for samples `encoding` and `channels` are added to the fields of its `start`.

    What is there already is scored without loss, however long it takes (``on_lag="wait"``), unless the fields say otherwise.

    Raises:
        InvalidParameter: As of `make_payload`; the frames raise it where the source yields something else than frames.
    """
    if isinstance(source, np.ndarray):
        is_integer, samples, fields["sample_rate"] = _check(source, fields.get("sample_rate"))
        fields["encoding"] = "s16le" if is_integer else "f32le"
        fields["channels"] = 1 if samples.ndim == 1 else samples.shape[1]
        source = samples.astype("<i2" if is_integer else "<f4").tobytes()
    if isinstance(source, (str, os.PathLike, bytes)):
        fields.setdefault("on_lag", "wait")
        return make_payload(source, None).chunks()
    if isinstance(source, AsyncIterable):
        return _checked(aiter(source))
    if hasattr(source, "read"):
        file = cast(IO[bytes], source)
        _check_file(file)
        return _checked(_read(file))
    if not isinstance(source, Iterable):
        raise InvalidParameter(f"the source is a {type(source).__name__}; expected is a clip, or an iterable of bytes")
    return _checked(_take(source))


async def _checked(frames: AsyncIterator[object]) -> AsyncIterator[Frame]:
    """Yield what a caller's source yields.

    Raises:
        InvalidParameter: It is no frame.
    """
    async for frame in frames:
        if isinstance(frame, (bytearray, memoryview)):
            yield bytes(frame)
        elif isinstance(frame, (bytes, ClientMessage)):
            yield frame
        else:
            hint = ": its tobytes() are, in the encoding that is named" if isinstance(frame, np.ndarray) else ""
            raise InvalidParameter(f"the source yields a {type(frame).__name__}; bytes are expected{hint}")


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield what an open file or pipe holds, each piece when it is there."""
    read = getattr(file, "read1", file.read)
    while data := await asyncio.to_thread(read, PIECE_BYTES):
        yield data


async def _take(frames: Iterable[Frame]) -> AsyncIterator[Frame]:
    iterator = iter(frames)
    while (frame := await asyncio.to_thread(next, iterator, None)) is not None:
        yield frame


def _check_file(file: object) -> None:
    if isinstance(file, io.TextIOBase):
        raise InvalidParameter("the file is open for reading text; open it with the mode 'rb'")
    if getattr(file, "closed", False):
        raise InvalidParameter("the file is closed")


def _check(samples: Array, sample_rate: object) -> tuple[bool, Array, int]:
    """Return whether samples are integers, the samples, and their rate."""
    if sample_rate is None:
        raise InvalidParameter("an array of samples needs its sample_rate", param="sample_rate")
    if not (isinstance(sample_rate, (int, np.integer)) and MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE):
        raise InvalidParameter(
            f"sample_rate is {sample_rate!r}; a whole number from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz is expected",
            param="sample_rate",
        )
    if samples.ndim not in (1, 2):
        raise InvalidParameter(f"the samples have the shape {samples.shape}; [n] or [n, channels] is expected")
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS:
        hint = ", which is this one's .T" if 1 <= samples.shape[0] <= MAX_CHANNELS else ""
        raise InvalidParameter(
            f"the samples have the shape {samples.shape}, which is {samples.shape[1]} channels of {samples.shape[0]} samples; "
            f"[n] or [n, channels] is expected{hint}, with 1 to {MAX_CHANNELS} channels"
        )
    if samples.dtype == np.int16:
        return True, samples, int(sample_rate)
    if not np.issubdtype(samples.dtype, np.floating):
        raise InvalidParameter(f"the samples are {samples.dtype}; float in [-1, 1] or int16 is expected")
    return False, samples.astype(np.float32), int(sample_rate)
