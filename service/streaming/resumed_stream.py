"""A stream put together again from the state that its last connection left, at the place where its client goes on. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.streaming.configuration import ActiveConfiguration
from service.streaming.messages import Limits, ServerMessage, Start
from service.streaming.sound import SoundState, StreamSound
from service.streaming.state import MessageLog, SessionState

WARM_UP_SECONDS: Final = 0.5
"""Of sound that a resampler gets again before the first sample that counts: its filter's length many times over."""
MAX_GAP_SECONDS: Final = 120.0
"""A stream is held for less: a client that lacks more of it has lost its count."""


@dataclass(frozen=True, slots=True)
class ResumedStream:
    """What a session needs to go on.

    Attributes:
        given: The configuration as a `start` would give it.
        active: The same, checked.
        sound: What exists since the first frame of sound; None before.
        opened_at: Clock seconds at which the stream began.
        resumed_at: Second from which sound is wanted again.
        missing: The sound that never comes, as (from, to) in seconds of the stream.
        num_repeated: Samples at the model's rate that come a second time, to warm the resampler up.
        log: The last messages.
        unsent: Those of them that the client has not received.
        seq: Of the last one.
        close: Code and reason, where the stream had ended and only its last messages are missing.
    """

    given: Start
    active: ActiveConfiguration
    sound: StreamSound | None
    opened_at: float
    resumed_at: float
    missing: tuple[tuple[float, float], ...]
    num_repeated: int
    log: MessageLog
    unsent: list[ServerMessage]
    seq: int
    close: tuple[int, str] | None


def restore_stream(
    state: SessionState, asked: Start, resolve: Callable[[Start], ActiveConfiguration], limits: Limits, now: float
) -> ResumedStream | None:
    """Return the stream as it goes on; None where it cannot.

    Args:
        state: What the last connection left; of a model that is served.
        asked: What the client says that it has (`last_seq`, `resume_from`).
        resolve: Checks a configuration.
        limits: What the stream is held to.
        now: Clock time.

    Raises:
        ServiceError: The configuration is none that `resolve` takes.
    """
    log = MessageLog(state.messages)
    unsent = log.after(asked.last_seq or 0, state.seq)
    if unsent is None:
        return None
    given = Start.model_validate(state.configuration.model_dump(mode="json"))
    active = resolve(given)
    try:
        sound = _restore_sound(state.sound, active, limits, now)
    except ValueError:
        return None
    received = sound.received_seconds if sound else 0.0
    wanted_from = asked.resume_from or 0.0
    if wanted_from - received > MAX_GAP_SECONDS:
        return None
    rate = active.spec.sample_rate
    num_received = sound.received_samples if sound else 0
    wanted = round(wanted_from * rate)
    if wanted > num_received:
        sound = sound or StreamSound(active, limits, now - wanted_from)
        sound.skip(wanted, now)
        position = wanted
    else:
        position = _find_start(active, wanted, num_received)
    lost_from = received if state.missing_from is None else state.missing_from
    lost_to = max(received, position / rate)
    return ResumedStream(
        given=given,
        active=active,
        sound=sound,
        opened_at=now - state.age_seconds,
        resumed_at=position / rate,
        missing=((lost_from, lost_to),) if lost_to > lost_from else (),
        num_repeated=max(0, num_received - position),
        log=log,
        unsent=unsent,
        seq=state.seq,
        close=state.close,
    )


def _restore_sound(state: SoundState | None, active: ActiveConfiguration, limits: Limits, now: float) -> StreamSound | None:
    if state is None:
        return None
    sound = StreamSound(active, limits, now - state.age_seconds)
    sound.restore(state)
    return sound


def _find_start(active: ActiveConfiguration, wanted: int, received: int) -> int:
    """Return the sample from which sound is wanted again, where the client has all from `wanted` on."""
    raw, rate = active.audio.raw, active.spec.sample_rate
    if raw is None or raw.sample_rate == rate:
        return received
    # Samples of both rates coincide at whole seconds.
    return max(wanted, rate * math.floor(max(0.0, received / rate - WARM_UP_SECONDS)))
