"""What client and service agree on: from the query, `start` or a stream gone on with to `ready`, and what `update` changes.

Pure. How values are checked is the business of `service.streaming.configuration`, how a stream is put together again that of
`service.streaming.resumed_stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.errors import ProtocolViolation
from service.inference.runner import ModelSpec
from service.postprocess.event_config import EventConfig
from service.streaming.actions import Resume
from service.streaming.configuration import ActiveConfiguration, find_missing, merge_start, resolve_start
from service.streaming.messages import Configured, ErrorMessage, Limits, ModelRef, Ready, Start, Update, parse_query
from service.streaming.outgoing import Outgoing
from service.streaming.resumed_stream import ResumedStream, restore_stream
from service.streaming.sound import StreamSound
from service.streaming.state import SessionState, load_state


class Negotiation:
    """The configuration of one stream.

    Args:
        outgoing: Takes what the client is told.
        session_id: Told in `ready`.
        models: The served models by name.
        default_model: The one that is used when the client names none.
        limits: Told in `ready`.
        events: What counts as an event where the client says nothing.
        resume_token: Told in `ready`; None where another connection cannot go on with the stream.
        admit: Is asked before a configuration holds; raises a `ServiceError` where the service cannot do what it asks for.

    Attributes:
        is_resuming: Whether `Resume` is not answered yet.
        is_confirmed: Whether the client has shown that it has the `ready` of a stream that goes on: it sent something after.
        missing_from: Second of the stream from which on that `ready` calls sound missing; None without, and once confirmed.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        session_id: str,
        models: Mapping[str, ModelSpec],
        default_model: str,
        limits: Limits,
        events: EventConfig,
        resume_token: str | None,
        admit: Callable[[ActiveConfiguration], None],
    ) -> None:
        self.is_resuming = False
        self.is_confirmed = True
        self.missing_from: float | None = None
        self._outgoing = outgoing
        self._session_id = session_id
        self._models = models
        self._default_model = default_model
        self._limits = limits
        self._event_defaults = events
        self._resume_token = resume_token
        self._admit = admit
        self._given = Start()
        self._active: ActiveConfiguration | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is a configuration that holds."""
        return self._active is not None

    @property
    def active(self) -> ActiveConfiguration:
        """The configuration that holds.

        Raises:
            ValueError: There is none yet.
        """
        if self._active is None:
            raise ValueError("the stream is not configured yet")
        return self._active

    def explain_missing(self) -> ProtocolViolation:
        """Return what to say to a client that sends sound before the configuration is complete."""
        missing = find_missing(self._given)
        return ProtocolViolation(
            f"sound came before the configuration was complete: {missing.message if missing else 'send start first'}",
            param=missing.param if missing else None,
        )

    def open(self, query: list[tuple[str, str]]) -> None:
        """Take the query; it may be complete, name a stream to go on with, or leave the rest to `start`.

        Raises:
            ServiceError: It cannot be met.
        """
        self._given = parse_query(query)
        if self._given.resume_token is not None:
            self._ask_resume(self._given.resume_token)
        else:
            self._begin_if_complete()

    def start(self, start: Start) -> None:
        """Take a `start`, before any sound: the first makes the configuration complete, another one adds to it.

        Raises:
            ServiceError: It cannot be met, or contradicts what was said before.
        """
        given = merge_start(self._given, start)
        if self._active is None:
            self._given = given
            if start.resume_token is not None:
                self._ask_resume(start.resume_token)
            else:
                self._begin()
            return
        if start.model not in (None, self._active.spec.name):
            raise ProtocolViolation(
                f"model is {start.model!r}, but ready has named {self._active.spec.name!r}: name the model in the query",
                param="model",
            )
        self._given = given
        active = self._resolve(given)
        self._admit(active)
        self._active = active
        self._outgoing.send(Configured(from_=0.0, configuration=active.to_wire()))
        if start.resume_token is not None:
            self._deny_resume()

    def update(self, update: Update, sound: StreamSound | None) -> None:
        """Take an `update`, which holds for the sound that comes from now on.

        Raises:
            ServiceError: It cannot be met; all stays as it was.
        """
        if self._active is None:
            raise ProtocolViolation("update came before the configuration was complete: send start first", param="type")
        active = self._active.updated(update, self._event_defaults)
        self._admit(active)
        self._active = active
        start = sound.configure(active) if sound else 0.0
        self._outgoing.send(Configured(from_=start, configuration=active.to_wire()))

    def resume(self, text: str | None, now: float) -> ResumedStream | None:
        """Take the answer to `Resume`: return the stream that goes on; None where it cannot and a new one begins.

        Raises:
            ServiceError: The new stream, or the old one now, cannot be had.
        """
        self.is_resuming = False
        state = None if text is None else load_state(text)
        resumed = None if state is None else self._restore(state, now)
        if resumed is None:
            self._given = self._given.model_copy(update={"resume_token": None, "last_seq": None, "resume_from": None})
            self._begin_if_complete()
            self._deny_resume()
            return None
        self._admit(resumed.active)
        self._given, self._active = resumed.given, resumed.active
        self.is_confirmed, self.missing_from = False, resumed.missing[0][0] if resumed.missing else None
        told = {"resumed_at": resumed.resumed_at, "missing": resumed.missing}
        self._outgoing.send(self._ready(resumed.active).model_copy(update=told))
        self._outgoing.go_on(resumed.log, resumed.unsent, resumed.seq)
        return resumed

    def confirm(self) -> None:
        """The client has sent something: it has `ready`."""
        self.is_confirmed, self.missing_from = True, None

    def _restore(self, state: SessionState, now: float) -> ResumedStream | None:
        spec = self._models.get(state.configuration.model)
        if spec is None or spec.source_sha256 != state.model_sha256:
            return None
        return restore_stream(state, self._given, self._resolve, self._limits, now)

    def _resolve(self, given: Start) -> ActiveConfiguration:
        return resolve_start(given, self._models, self._default_model, self._event_defaults)

    def _begin_if_complete(self) -> None:
        if find_missing(self._given) is None:
            self._begin()

    def _begin(self) -> None:
        """The configuration is complete: say so."""
        active = self._resolve(self._given)
        self._admit(active)
        self._active = active
        self._outgoing.send(self._ready(active))
        self._outgoing.number_from(0)

    def _ready(self, active: ActiveConfiguration) -> Ready:
        return Ready(
            session_id=self._session_id,
            model=ModelRef(name=active.spec.name, sha256=active.spec.source_sha256),
            limits=self._limits,
            configuration=active.to_wire(),
            resume_token=self._resume_token,
        )

    def _ask_resume(self, token: str) -> None:
        self.is_resuming = True
        self._outgoing.add(Resume(token))

    def _deny_resume(self) -> None:
        self._outgoing.send(
            ErrorMessage(
                code="resume_unknown",
                message="this resume_token is not known, or what came after last_seq is not kept: a new stream begins",
                param="resume_token",
                retryable=False,
                fatal=False,
            )
        )
