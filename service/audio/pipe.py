"""A decoder in a thread of its own, fed with the bytes of a live stream. It is what turns FFmpeg's pull into a push."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from service.audio.containers import ContainerDecoder, to_border

Float32Array = npt.NDArray[np.float32]


class DecoderThread:
    """Runs a `ContainerDecoder` over a pipe.

    Bounded on both sides: whoever pushes takes all sound before pushing more, so that the pipe holds one push at most; the
    decoder waits while a second of sound lies there untaken.

    The laws: `start` comes first; `start`, `push`, `end` and `take` are called by one thread; `close` by any, at any time, also
    before `start` and while `take` waits.

    Args:
        channel: The channel to pick; None for the mean of all.

    Attributes:
        sample_rate: Hz; None until the decoder knows it, which is before its first sound is taken.
        channels: Likewise.
    """

    def __init__(self, *, channel: int | None) -> None:
        self.sample_rate: int | None = None
        self.channels: int | None = None
        self._container = ""
        self._channel = channel
        self._changed = threading.Condition()
        self._bytes = bytearray()
        self._position = 0
        self._wanted_bytes = 0  # what the decoder waits for; 0 while it works
        self._sound: list[Float32Array] = []
        self._num_samples = 0
        self._is_ended = False
        self._is_closed = False
        self._is_done = False
        self._error: BaseException | None = None

    def start(self, container: str) -> None:
        """Start the thread, once: the bytes are this container. After `close` nothing starts."""
        with self._changed:
            self._container = container
            if not self._is_closed:
                threading.Thread(target=self._run, name=f"decode-{container}", daemon=True).start()

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over bytes. They are kept until decoded; what comes after the decoder's end is dropped."""
        with self._changed:
            if not self._is_done and not self._is_closed:
                self._bytes += data
                self._changed.notify_all()

    def end(self) -> None:
        """Say that no bytes follow."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def take(self) -> Float32Array | None:
        """Wait for sound, float32 `[n]`, at most two seconds of it; None when all that was pushed is decoded.

        "All" leaves out less than `READ_BYTES` and what the container's and codec's own framing holds back.

        Raises:
            ServiceError: What ended the decoder, once its sound is taken, each time.
        """
        with self._changed:
            self._changed.wait_for(self._has_news)
            if self._sound and not self._is_closed:
                sound = np.concatenate(self._sound)
                self._sound, self._num_samples = [], 0
                self._changed.notify_all()
                return sound
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Let the thread go: it stops at its next read or block. Sound not yet taken is lost."""
        with self._changed:
            self._is_closed = True
            self._bytes.clear()
            self._sound, self._num_samples = [], 0
            self._changed.notify_all()

    def read(self, size: int, /) -> bytes:
        """What FFmpeg calls, in the decoder's thread: blocks until a whole read, up to the next border, is there."""
        with self._changed:
            self._wanted_bytes = to_border(size, self._position)
            if len(self._bytes) < self._wanted_bytes and not self._is_ended:
                self._changed.notify_all()
                self._changed.wait_for(lambda: len(self._bytes) >= self._wanted_bytes or self._is_ended or self._is_closed)
            if self._is_closed:
                return b""
            data = bytes(self._bytes[: self._wanted_bytes])
            del self._bytes[: self._wanted_bytes]
            self._wanted_bytes = 0
            self._position += len(data)
            return data

    def _has_news(self) -> bool:
        is_starved = not self._is_ended and len(self._bytes) < self._wanted_bytes
        is_full = self.sample_rate is not None and self._num_samples >= self.sample_rate
        return is_full or is_starved or self._is_done or self._is_closed

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._decode()
        except Exception as caught:  # noqa: BLE001  the top of a thread: whoever takes must hear of it, or waits forever
            error = caught
        with self._changed:
            self._error = None if self._is_closed else error
            self._is_done = True
            self._bytes.clear()
            self._changed.notify_all()

    def _decode(self) -> None:
        decoder = ContainerDecoder(self, self._container, channel=self._channel)
        try:
            with self._changed:
                self.sample_rate, self.channels = decoder.sample_rate, decoder.channels
            for block in decoder.blocks():
                if not self._put(block, decoder.sample_rate):
                    return
        finally:
            decoder.close()

    def _put(self, block: Float32Array, max_samples: int) -> bool:
        """Lay sound down for `take`; wait while a second of it lies there. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_samples < max_samples or self._is_closed)
            if self._is_closed:
                return False
            self._sound.append(block)
            self._num_samples += len(block)
            if self._num_samples >= max_samples:
                self._changed.notify_all()
            return True
