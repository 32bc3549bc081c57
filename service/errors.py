"""Every error a user can meet, one tree.

::

    SonotagError
    ├── ServiceError                    what a request or a stream is answered with
    │   ├── InvalidParameter            400 / 4400
    │   │   └── UnknownLabel
    │   ├── UndecodableAudio            400 / 4415  sound, but broken
    │   ├── DecodingFailed              422 / 4415  sound that its decoder crashed on, or could not be done with
    │   ├── UnsupportedAudio            415 / 4415  not sound, or none that we read
    │   │   └── NotStreamable           a container whose index comes last, as a stream
    │   ├── Unauthorised                401 / 4401  no key, or none that is known
    │   ├── Forbidden                   403 / 4403
    │   │   ├── MissingScope            403 / 4401  the key is known, but is not for this
    │   │   ├── ForbiddenOrigin         a page of another origin
    │   │   └── ForbiddenHost           a name that this service does not go by
    │   ├── QuotaExceeded               429 / 4429
    │   ├── NotFound                    404 / 4400
    │   ├── ReloadFailed                409         the new models cannot be served, the old ones are
    │   ├── ClipTooLong, BodyTooLarge   413 / 4413
    │   ├── ClipTooShort                422
    │   ├── CutSample, BadMessage       400 / 1007  a raw stream that ends inside a sample; text that is no message
    │   ├── ProtocolViolation           400 / 4400  a message that is not allowed now
    │   ├── StreamExpired               408 / 4408  idle, or past the maximum duration
    │   │   └── SlowReader              takes no results
    │   ├── RequestTimeout              408         a request that comes too slowly
    │   ├── TooManyMessages             429 / 4429  text messages or pings faster than the limit
    │   ├── Unavailable                 503 / 4503
    │   │   ├── QueueFull, DeadlineExceeded, NotReady, Overloaded
    │   │   └── Draining                close 1001
    │   └── InferenceFailed             500 / 1011
    └── StartError                      what stops a start or an export; one line says why
        ├── SettingsError
        ├── BundleError
        └── ProviderError

A class knows its ``code``, ``http_status`` and ``close_code``; a message says what was got, what was expected and which
setting sets the limit. Paths of the machine never appear in a ``ServiceError``.
"""

from __future__ import annotations


class SonotagError(Exception):
    """The root: everything this package raises on purpose."""


class ServiceError(SonotagError):
    """An error that is sent to whoever asked.

    Args:
        message: What was got, what was expected, and the setting, in one sentence.
        param: The parameter at fault, as the caller wrote it.
        retry_after_s: When it is worth trying again, for retryable errors.
    """

    code = "internal"
    http_status = 500
    close_code = 1011
    retryable = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidParameter(ServiceError):
    """A parameter is out of range, of the wrong type, or contradicts another one."""

    code = "invalid_parameter"
    http_status = 400
    close_code = 4400


class UnknownLabel(InvalidParameter):
    """A label is neither a name nor an id of the model."""

    code = "unknown_label"


class UndecodableAudio(ServiceError):
    """The bytes are a known container or encoding, but cannot be decoded."""

    code = "undecodable_audio"
    http_status = 400
    close_code = 4415


class DecodingFailed(ServiceError):
    """The decoder crashed, took too long or wanted too much memory: the sound is damaged, or made to do that."""

    code = "decoding_failed"
    http_status = 422
    close_code = 4415


class UnsupportedAudio(ServiceError):
    """The bytes are no sound that can be read."""

    code = "unsupported_audio"
    http_status = 415
    close_code = 4415


class NotStreamable(UnsupportedAudio):
    """A container that can be read as a file only, sent as a stream."""

    code = "not_streamable"


class Unauthorised(ServiceError):
    """There is no API key or token, or it is not known here, or no longer."""

    code = "unauthorised"
    http_status = 401
    close_code = 4401


class Forbidden(ServiceError):
    """It is not allowed, whatever is sent along."""

    code = "forbidden"
    http_status = 403
    close_code = 4403


class MissingScope(Forbidden):
    """The API key or token is known, but is not for this."""

    code = "missing_scope"
    close_code = 4401


class ForbiddenOrigin(Forbidden):
    """The request comes from a page of another origin, which is not allowed to use the service."""

    code = "forbidden_origin"


class ForbiddenHost(Forbidden):
    """The request is for a host name that the service is not known by."""

    code = "forbidden_host"


class QuotaExceeded(ServiceError):
    """The API key has used up what it may: streams at once, requests a minute or seconds of sound a day."""

    code = "quota"
    http_status = 429
    close_code = 4429
    retryable = True


class ReloadFailed(ServiceError):
    """The new models cannot be served, or are being loaded already; the old ones serve on."""

    code = "reload_failed"
    http_status = 409


class NotFound(ServiceError):
    """No such model or path."""

    code = "not_found"
    http_status = 404
    close_code = 4400


class ClipTooLong(ServiceError):
    """More sound than the limit allows."""

    code = "clip_too_long"
    http_status = 413
    close_code = 4413


class BodyTooLarge(ServiceError):
    """More bytes than the limit allows."""

    code = "body_too_large"
    http_status = 413
    close_code = 4413


class ClipTooShort(ServiceError):
    """Fewer samples than the model needs to say anything."""

    code = "clip_too_short"
    http_status = 422
    close_code = 4400


class CutSample(ServiceError):
    """A raw stream ended inside a sample; what was whole has been scored."""

    code = "cut_sample"
    http_status = 400
    close_code = 1007


class BadMessage(ServiceError):
    """A text frame is no JSON object."""

    code = "bad_message"
    http_status = 400
    close_code = 1007


class ProtocolViolation(ServiceError):
    """A message is not allowed at this point of a stream."""

    code = "protocol"
    http_status = 400
    close_code = 4400


class StreamExpired(ServiceError):
    """A stream was idle too long, or has reached its maximum duration."""

    code = "stream_expired"
    http_status = 408
    close_code = 4408


class SlowReader(StreamExpired):
    """A client took none of a stream's results for too long; those that waited for it are lost."""

    code = "slow_reader"


class RequestTimeout(ServiceError):
    """A request's head or body came too slowly, or not at all."""

    code = "request_timeout"
    http_status = 408
    close_code = 4408


class TooManyMessages(ServiceError):
    """Text messages or pings came faster than a stream may send them."""

    code = "too_many_messages"
    http_status = 429
    close_code = 4429


class Unavailable(ServiceError):
    """The service cannot do it now; trying again later can work."""

    code = "unavailable"
    http_status = 503
    close_code = 4503
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = 1.0) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class QueueFull(Unavailable):
    """No place in the queue, or no place for another stream."""

    code = "queue_full"


class NoRoom(Unavailable):
    """There is no room for the body: the disk is full or read-only, other bodies have all of it, or no descriptors are left."""

    code = "no_room"


class DeadlineExceeded(Unavailable):
    """A window waited longer than its deadline; it was not scored."""

    code = "deadline_exceeded"


class NotReady(Unavailable):
    """The model is not warm yet."""

    code = "not_ready"


class Overloaded(Unavailable):
    """The model is too slow for a stream that asked to be ended rather than to lose sound."""

    code = "overloaded"


class Draining(Unavailable):
    """The service is going away."""

    code = "draining"
    close_code = 1001


class InferenceFailed(ServiceError):
    """The model failed on a batch; other batches are not affected."""

    code = "inference_failed"
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = 1.0) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class StartError(SonotagError):
    """The service cannot start as it is configured."""


class SettingsError(StartError):
    """A setting is missing, of the wrong type or out of range."""


class BundleError(StartError):
    """A bundle is incomplete, altered, of another format version, or gives wrong numbers."""


class ProviderError(StartError):
    """The execution provider that was asked for cannot be had."""
