"""What each API key has used in the whole service: `QuotaLedger` with a clock, asked by the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from service.access.quotas import QuotaLedger
from service.errors import QuotaExceeded
from service.keeper.desk import Desk
from service.keeper.topics import (
    ADMIT_REQUEST,
    CLOSE_KEY_STREAM,
    OPEN_KEY_STREAM,
    RESERVE_AUDIO,
    RETURN_AUDIO,
    AudioBack,
    AudioWanted,
    KeyRequest,
    KeyStream,
    KeyStreamOver,
    Nothing,
    Verdict,
)

_YES: Final = Verdict()


class Accounts:
    """Answers what workers ask of quotas. Its methods belong to the keeper's event loop.

    Args:
        desk: The keeper's, which gets the handlers.
        clock: Seconds, rising: the one clock of all counts.
    """

    def __init__(self, desk: Desk, clock: Callable[[], float]) -> None:
        self._ledger = QuotaLedger()
        self._clock = clock
        desk.add(ADMIT_REQUEST, self._admit_request)
        desk.add(OPEN_KEY_STREAM, self._open_stream)
        desk.add(CLOSE_KEY_STREAM, self._close_stream)
        desk.add(RESERVE_AUDIO, self._reserve_audio)
        desk.add(RETURN_AUDIO, self._return_audio)

    def forget(self, worker: int) -> None:
        """A worker is dead, and its streams with it."""
        self._ledger.forget(worker)

    def _admit_request(self, _worker: int, question: KeyRequest) -> Verdict:
        try:
            self._ledger.admit_request(question.key, question.limits, self._clock())
        except QuotaExceeded as error:
            return _no(error)
        return _YES

    def _open_stream(self, worker: int, question: KeyStream) -> Verdict:
        try:
            self._ledger.open_stream(question.key, question.limits, worker, question.lease)
        except QuotaExceeded as error:
            return _no(error)
        return _YES

    def _close_stream(self, worker: int, question: KeyStreamOver) -> Nothing:
        self._ledger.close_stream(question.key, worker, question.lease)
        return Nothing()

    def _reserve_audio(self, _worker: int, question: AudioWanted) -> Verdict:
        try:
            seconds = self._ledger.reserve_audio(
                question.key, question.limits, question.seconds, question.minimum, self._clock(), question.held
            )
        except QuotaExceeded as error:
            return _no(error)
        return Verdict(seconds=seconds)

    def _return_audio(self, _worker: int, question: AudioBack) -> Nothing:
        self._ledger.return_audio(question.key, question.seconds)
        return Nothing()


def _no(error: QuotaExceeded) -> Verdict:
    return Verdict(refusal=error.message, retry_after_s=error.retry_after_s)
