"""Sound from a microphone, for `sonotag listen`: any input device that PortAudio knows, at its own rate.

PortAudio calls from a thread of its own, which must not wait for anything: it leaves each piece in a queue with a bound. What
does not fit is lost, and said: the stream's time goes on without it, as where a network was away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import numpy as np

from service.audio.formats import MAX_RAW_CHANNELS, RawFormat
from service.commands.capture_queue import CaptureQueue
from service.commands.devices import Device, NoMicrophone
from service.commands.listen_sources import PIECE_SECONDS, Source, SourceLost, raw_query, receive
from service.commands.portaudio import Backend, Flags, Stream
from service.engine import Engine
from service.errors import InvalidParameter

QUEUE_SECONDS = 5.0
"""How much waits for who listens. It is there for a machine that is busy for a moment: results that late are of little use."""
SILENT_SECONDS = 15.0
"""A device that gives nothing for so long is gone. Headsets on Bluetooth take some seconds to begin."""


@asynccontextmanager
async def open_microphone(
    engine: Engine, backend: Backend, device: Device, channel: int | None, report: Callable[[str], None]
) -> AsyncIterator[Source]:
    """Listen to a device.

    Args:
        engine: A pool.
        backend: What opens it.
        device: Which one.
        channel: The channel to take; None for the mean of all, or of the first two where there are more than
            `MAX_RAW_CHANNELS`.
        report: Is told, in a thread, what is listened to and what was lost.

    Raises:
        NoMicrophone: It cannot be opened.
        InvalidParameter: There is no such channel.
    """
    if channel is not None and channel >= device.num_channels:
        raise InvalidParameter(f"there is no channel {channel}: {device.name} has {device.num_channels}", param="channel")
    queue = CaptureQueue(round(QUEUE_SECONDS / PIECE_SECONDS))
    stream, num_channels = await engine.run(lambda: _open(backend, device, channel, queue))
    reader = MicrophoneReader(device, num_channels, channel, queue, report)
    try:
        await engine.run(partial(_start, backend, device, stream))
        report(f"listening to {device.name}, {device.sample_rate} Hz; Control-C ends it")
        frames = receive(reader.read)
        try:
            yield Source(raw_query(RawFormat("f32le", device.sample_rate, 1), None), frames, is_live=True)
        finally:
            await frames.aclose()
    finally:
        reader.stop()
        await engine.run(stream.close)


class MicrophoneReader:
    """Takes sound out of the queue, one channel of it. One thread uses it.

    Args:
        device: What it comes from.
        num_channels: As how many it comes, interleaved.
        channel: The one to take; None for the mean of all.
        queue: What the device fills.
        report: Is told what was lost.
    """

    def __init__(
        self, device: Device, num_channels: int, channel: int | None, queue: CaptureQueue, report: Callable[[str], None]
    ) -> None:
        self._device = device
        self._num_channels = num_channels
        self._channel = channel
        self._queue = queue
        self._report = report
        self._num_samples = 0
        self._is_stopped = False

    def read(self) -> bytes:
        """Return the next samples, f32le, mono; empty once it is stopped.

        Raises:
            SourceLost: The device is gone.
        """
        piece = self._queue.take(SILENT_SECONDS)
        if self._is_stopped:
            return b""
        name, rate = self._device.name, self._device.sample_rate
        at = f"{self._num_samples / rate:.2f} s"
        if piece is None:
            raise SourceLost(f"{name}: the device was lost at {at}: is it still plugged in?")
        if piece.num_lost:
            self._report(f"{name}: {piece.num_lost / rate:.1f} s were not heard at {at}: the sound is not taken as it comes")
        if piece.has_overflowed:
            self._report(f"{name}: some sound was not heard at {at}: this machine is too slow for the device")
        channels = np.frombuffer(piece.data, "<f4").reshape(-1, self._num_channels)
        self._num_samples += len(channels)
        picked = channels.mean(axis=1) if self._channel is None else channels[:, self._channel]
        return picked.astype("<f4").tobytes()

    def stop(self) -> None:
        """Let `read` end; from any thread."""
        self._is_stopped = True
        self._queue.end()


def _channel_counts(device: Device, channel: int | None) -> Iterator[int]:
    """Yield how many channels to ask for. What claims more than a microphone has, converts; other devices may insist."""
    if device.num_channels > MAX_RAW_CHANNELS:
        yield 2 if channel is None else max(2, channel + 1)
    yield device.num_channels


def _open(backend: Backend, device: Device, channel: int | None, queue: CaptureQueue) -> tuple[Stream, int]:
    def take(data: bytes, num_frames: int, _time: object, flags: Flags) -> None:
        queue.put(bytes(data), num_frames, has_overflowed=flags.input_overflow)

    reason: Exception | None = None
    for num_channels in _channel_counts(device, channel):
        try:
            stream = backend.RawInputStream(
                device=device.index,
                samplerate=device.sample_rate,
                channels=num_channels,
                blocksize=round(PIECE_SECONDS * device.sample_rate),
                dtype="float32",
                latency="high",
                callback=take,
                finished_callback=queue.end,
            )
        except backend.PortAudioError as error:
            reason = error
        else:
            return stream, num_channels
    raise _not_opened(device, reason)


def _start(backend: Backend, device: Device, stream: Stream) -> None:
    try:
        stream.start()
    except backend.PortAudioError as error:
        raise _not_opened(device, error) from error


def _not_opened(device: Device, reason: Exception | None) -> NoMicrophone:
    return NoMicrophone(f"{device.name} cannot be listened to: {reason}")
