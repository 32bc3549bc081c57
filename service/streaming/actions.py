"""What a stream's session asks its owner to do."""

from __future__ import annotations

from dataclasses import dataclass

from service.inference.runner import Int16Array
from service.observer import DropReason
from service.streaming.messages import ServerMessage


@dataclass(frozen=True, slots=True)
class Send:
    """Send this text frame."""

    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Infer:
    """Have the model score this window; answer with `receive_scores` or `receive_failure`.

    Attributes:
        ticket: Names the window in the answer.
        waveform: int16 `[n]`, a view of the stream's sound that cannot be written.
        window_samples: The stream's window, which the first ones do not fill.
        due: Clock seconds from which its lag counts: later than now where sound comes ahead of real time.
        deadline: Clock seconds after which the answer is worth nothing, or None.
    """

    ticket: int
    waveform: Int16Array
    window_samples: int
    due: float
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Resume:
    """Look for the stream with this token; answer with `resume`. Until then no frame of the client matters: read none."""

    token: str


@dataclass(frozen=True, slots=True)
class FinishAudio:
    """Read no more; drain the decoder into `receive_audio`, then call `receive_audio_end`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """This much new sound was received and will not be scored."""

    reason: DropReason
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection. Nothing follows."""

    code: int
    reason: str


Action = Send | Infer | Resume | FinishAudio | Dropped | Close
