"""A stream's session driven by hand: a clock that tests move, and a model that answers when the test says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.errors import ServiceError
from service.inference.runner import Int16Array, ModelSpec
from service.postprocess.event_config import EventConfig
from service.streaming.actions import Action, Close, Dropped, FinishAudio, Infer, Resume, Send
from service.streaming.messages import Limits
from service.streaming.session import StreamSession
from tests.support.runners import expected_scores, make_spec

LIMITS = Limits(max_lag_seconds=2, max_ahead_seconds=10, idle_seconds=60, max_stream_seconds=3600, max_frame_bytes=1_000_000)
RAW = {"encoding": "s16le", "sample_rate": "16000"}


class DrivenSession:
    """A session with everything it asked for, in order.

    Args:
        query: The query string's fields; None leaves the session unopened.
        models: The served models; one fake by default.
        limits: What the stream is held to.
        kept: The states that can be gone on with, by token.
    """

    def __init__(
        self,
        query: Mapping[str, str] | None = RAW,
        *,
        models: Mapping[str, ModelSpec] | None = None,
        limits: Limits = LIMITS,
        kept: Mapping[str, str] | None = None,
    ) -> None:
        models = models or {"fake": make_spec()}
        self.session = StreamSession("session", models, next(iter(models)), limits, EventConfig(), "token")
        self.kept = kept or {}
        self.now = 100.0
        self.messages: list[dict[str, Any]] = []
        self.wire: list[str] = []
        self.waiting: list[Infer] = []
        self.dropped: list[Dropped] = []
        self.close: Close | None = None
        self.must_finish = False
        if query is not None:
            self.do(self.session.open(list(query.items()), self.now))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            assert self.close is None, f"{action} after the close"
            match action:
                case Send(message):
                    self.wire.append(message.to_json())
                    self.messages.append(message.model_dump(by_alias=True, mode="json"))
                case Infer():
                    self.waiting.append(action)
                case Resume(token):
                    self.do(self.session.resume(self.kept.get(token), self.now))
                case FinishAudio():
                    self.must_finish = True
                case Dropped():
                    self.dropped.append(action)
                case Close():
                    self.close = action

    def text(self, text: str) -> None:
        self.do(self.session.receive_text(text, self.now))
        self.finish_if_asked()

    def audio(self, samples: Int16Array, *, at: float | None = None) -> None:
        """One binary frame that decodes to these samples."""
        self.now = self.now if at is None else at
        self.do(self.session.receive_binary(2 * len(samples), self.now))
        if self.session.is_reading:
            self.do(self.session.receive_audio(samples, self.now, self.now))
        self.finish_if_asked()

    def second(self, label_id: int = 1, *, count: int = 1, at: float | None = None) -> None:
        """So many seconds in which the fake model hears one label."""
        self.audio(np.full(16_000 * count, 1000 * label_id, np.int16), at=at)

    def finish_if_asked(self, error: ServiceError | None = None) -> None:
        if self.must_finish:
            self.must_finish = False
            self.do(self.session.receive_audio_end(self.now, error))

    def answer(self, count: int | None = None) -> None:
        """Let the model answer the oldest windows, and those that follow from that; all by default."""
        while self.waiting and count != 0:
            infer = self.waiting.pop(0)
            self.do(self.session.receive_scores(infer.ticket, expected_scores(infer.waveform), self.now))
            count = None if count is None else count - 1

    def break_off(self, last_seq: int, **query: str) -> DrivenSession:
        """The connection breaks, the model answers for what came, and another one goes on, of which a client has so many."""
        self.answer()
        state = self.session.snapshot(self.now)
        resumed = DrivenSession(None, kept={"token": state})
        resumed.now = self.now
        given = {"resume_token": "token", "last_seq": str(last_seq), **query}
        resumed.do(resumed.session.open(list(given.items()), resumed.now))
        return resumed

    def poll(self, at: float) -> None:
        self.now = at
        self.do(self.session.poll(at))
        self.finish_if_asked()

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] in types]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]
