"""Tokens: what a key's holder gives to a browser, short-lived and for less than the key is for.

They are JSON Web Tokens, signed with a secret of the service and with the hash of the key they were made with: any worker
that knows both can check one, a key that is revoked takes its tokens along, and whoever reads the file of keys alone can
make none. Their end is a time of day, which several machines and a restart have in common: where a clock is set, the tokens
that exist end by so much sooner or later.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt

from service.access.keys import SCOPES, ApiKey, Scope
from service.errors import SettingsError, Unauthorised

MAX_TOKEN_SECONDS: Final = 3600
DEFAULT_TOKEN_SECONDS: Final = 60
"""Long enough to open a connection with it; what is open then stays so."""
MIN_SECRET_BYTES: Final = 32
_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "sonotag"
_SKEW_SECONDS: Final = 5
"""What the clocks of two instances may differ by."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a good token says.

    Attributes:
        key: The key it was made with, as that is now.
        scopes: What it is for: never more than the key is.
    """

    key: ApiKey
    scopes: frozenset[Scope]


class TokenSigner:
    """Makes and checks tokens.

    Args:
        secret: Of the service, the same in all its workers; at least 32 bytes.
        wall_clock: Seconds since 1970.
    """

    def __init__(self, secret: bytes, wall_clock: Callable[[], float]) -> None:
        self._secret = secret
        self._wall_clock = wall_clock

    def sign(self, key: ApiKey, scopes: frozenset[Scope], seconds: int) -> str:
        """Return a token for some of a key's scopes that holds for so many seconds."""
        claims = {"aud": _AUDIENCE, "exp": int(self._wall_clock()) + seconds, "scope": " ".join(sorted(scopes))}
        return jwt.encode(claims, self._signing_key(key), _ALGORITHM, headers={"kid": key.id})

    def verify(self, token: str, keys: Mapping[str, ApiKey]) -> Grant:
        """Return what a token says.

        Args:
            token: As it came.
            keys: The keys by their ID.

        Raises:
            Unauthorised: It is none of ours, too old, or its key is gone.
        """
        try:
            key = keys[str(jwt.get_unverified_header(token).get("kid"))]
            # The library's own clock cannot be set; it does all the rest.
            claims = jwt.decode(
                token,
                self._signing_key(key),
                [_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp"], "verify_exp": False},
            )
            is_over = int(claims["exp"]) + _SKEW_SECONDS < self._wall_clock()
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
            raise Unauthorised("this is no API key of this service, and no token that it has signed") from error
        if is_over:
            raise Unauthorised("the token is too old: ask for a new one at POST /v1/tokens")
        said = str(claims.get("scope", "")).split()
        return Grant(key, key.scopes & {scope for scope in SCOPES if scope in said})

    def _signing_key(self, key: ApiKey) -> bytes:
        return hmac.digest(self._secret, b"sonotag token\0" + key.hash, "sha256")


def load_token_secret(path: Path | None) -> bytes:
    """Return what tokens are signed with: a file's content, or something new.

    Raises:
        SettingsError: The file cannot be read, or is too short.
    """
    if path is None:
        return secrets.token_bytes(MIN_SECRET_BYTES)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"SONOTAG_TOKEN_SECRET_FILE is {str(path)!r}: {os.strerror(error.errno or 0)}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(
            f"SONOTAG_TOKEN_SECRET_FILE is {str(path)!r}: it has {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed "
            "(openssl rand -hex 32)"
        )
    return secret
