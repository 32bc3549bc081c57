"""The one at the door: who asks, whether they may, and how much of it.

It is asked in this order: `check_browser`, `identify`, `authorise`, then the quotas. Without a file of keys everybody is let
in, as nobody in particular, and held to nothing; browsers are looked at all the same.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from service.access.key_file import KeyFile
from service.access.keys import NO_KEY, SCOPES, ApiKey, Scope, find_key, looks_like_key
from service.access.metering import AudioMeter
from service.access.origins import Asked, check_host, check_origin, is_loopback
from service.access.quotas import Quotas
from service.access.tokens import TokenSigner, load_token_secret
from service.errors import MissingScope, Unauthorised
from service.meter import UNMETERED, Meter
from service.settings import Settings

PUBLIC: Final = ("/", "/web/", "/health/", "/docs", "/openapi.json", "/asyncapi.json")
"""What is answered without a key: exact paths, and what lies below those that end with a slash. The page has to be there
before it can ask for a key, and probes have none."""
NEEDED: Final[dict[str, Scope]] = {
    "/v1/classify": "classify",
    "/v1/classify/batch": "classify",
    "/compat/huggingface": "classify",
    "/v1/stream": "stream",
    "/metrics": "metrics",
    "/v1/models/reload": "admin",
}
"""The scope that a path needs. Any other path, also one that does not exist, needs a key of whatever scope."""
DESCRIPTIONS: Final = ("/docs", "/openapi.json", "/asyncapi.json")
_HOW: Final = "make one with sonotag keys create, and send it as Authorization: Bearer KEY"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key: Their key; `NO_KEY` where nobody is asked for one.
        scopes: What they may do; of a token less than its key may be.
        has_token: Whether they came with a token.
    """

    key: ApiKey
    scopes: frozenset[Scope]
    has_token: bool = False

    @property
    def name(self) -> str | None:
        """The key's name, for the log; None where there is none."""
        return self.key.name or None


ANYBODY: Final = Caller(NO_KEY, frozenset(SCOPES))
"""Who asks where nobody needs a key."""


class Guard:
    """Lets callers in.

    Args:
        settings: What is allowed.
        quotas: Counts what each key uses.
        clock: Seconds, rising.
        wall_clock: Seconds since 1970.

    Attributes:
        quotas: As given.

    Raises:
        SettingsError: The keys or the secret cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        quotas: Quotas,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.quotas = quotas
        self._keys = None if settings.api_keys_file is None else KeyFile(settings.api_keys_file, clock)
        secret = settings.token_secret or load_token_secret(settings.token_secret_file)
        self._signer = TokenSigner(secret, wall_clock)
        self._origins = settings.cors_origins
        self._hosts = (*settings.allowed_hosts, settings.host.lower())
        self._takes_addresses = settings.unix_socket is None and not is_loopback(settings.host)
        self._metrics = settings.metrics
        self._has_docs = settings.docs == "on"

    def is_closed(self, path: str) -> bool:
        """Return whether a path is one that the settings have taken away."""
        if path == "/metrics":
            return self._metrics == "off"
        return not self._has_docs and path.startswith(DESCRIPTIONS)

    def is_public(self, path: str) -> bool:
        """Return whether a path is answered without a key."""
        if path == "/metrics" and self._metrics == "open":
            return True
        return path in PUBLIC or any(path.startswith(below) for below in PUBLIC if below.endswith("/") and below != "/")

    def check_browser(self, asked: Asked) -> None:
        """Refuse what a page elsewhere has a browser do.

        Raises:
            ForbiddenHost: The service does not go by that name.
            ForbiddenOrigin: Pages of that origin may not use it.
        """
        check_host(asked, self._hosts, takes_addresses=self._takes_addresses)
        check_origin(asked, self._origins)

    def identify(self, credential: str | None, *, takes_keys: bool = True, scheme: str | None = None) -> Caller:
        """Return who came with a credential.

        Args:
            credential: A key or a token; None without one.
            scheme: Without one, the scheme that a header `Authorization` names; empty where it names none, None without it.
            takes_keys: Whether it came in a way that is good for keys too. What stands in an address does not stay secret.

        Raises:
            Unauthorised: There is none, or it is not known.
        """
        if self._keys is None:
            return ANYBODY
        if credential is None:
            if scheme is not None:
                named = f"has the scheme {scheme}" if scheme else "names no scheme"
                raise Unauthorised(f"the header Authorization {named}, wanted is Bearer: {_HOW}")
            raise Unauthorised(f"there is no API key: {_HOW}")
        keys = self._keys.current()
        if looks_like_key(credential):
            if not takes_keys:
                raise Unauthorised("an API key does not belong into an address: get a token for it at POST /v1/tokens")
            key = find_key(credential, keys)
            if key is None:
                raise Unauthorised(f"the API key is not known here, or no longer: {_HOW}")
            return Caller(key, key.scopes)
        grant = self._signer.verify(credential, keys)
        return Caller(grant.key, grant.scopes, has_token=True)

    def authorise(self, caller: Caller, path: str) -> None:
        """Refuse what a caller's key is not for.

        Raises:
            MissingScope: The path needs a scope that the caller lacks.
        """
        needed = NEEDED.get(path)
        if needed is not None and needed not in caller.scopes:
            raise MissingScope(f"this needs the scope {needed}; this key or token has {_list(caller.scopes)}")

    def issue_token(self, caller: Caller, scopes: frozenset[Scope], seconds: int) -> str:
        """Return a token for some of a caller's scopes.

        Raises:
            MissingScope: The caller has not all of them, or came with a token: it would never end.
        """
        if caller.has_token:
            raise MissingScope("a token is made with an API key, not with another token")
        if lacking := scopes - caller.scopes:
            raise MissingScope(f"a token for {_list(lacking)} needs a key for it; this key has {_list(caller.scopes)}")
        return self._signer.sign(caller.key, scopes, seconds)

    async def count_request(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            QuotaExceeded: The key has made as many as it may.
        """
        if caller.key is not NO_KEY:
            await self.quotas.admit_request(caller.key.id, caller.key.limits)

    def metering(self, caller: Caller) -> AbstractAsyncContextManager[Meter]:
        """Return a context of what counts the sound of one request or stream against its caller."""
        if caller.key.limits.audio_seconds_per_day is None:
            return nullcontext(UNMETERED)
        return aclosing(AudioMeter(self.quotas, caller.key.id, caller.key.limits))

    @asynccontextmanager
    async def holding_stream(self, caller: Caller, lease: str) -> AsyncIterator[None]:
        """Count a stream for as long as the context is open.

        Raises:
            QuotaExceeded: The key has as many open as it may, or has opened too many in the last minute.
        """
        key = caller.key
        await self.count_request(caller)
        if key.limits.max_streams is None:
            yield
            return
        try:  # around the question too: it may be answered after the caller left
            await self.quotas.open_stream(key.id, key.limits, lease)
            yield
        finally:
            await self.quotas.close_stream(key.id, lease)


def _list(scopes: frozenset[Scope]) -> str:
    return ", ".join(sorted(scopes)) or "none"
