"""API keys: how they are made, what is kept of them, and how one is recognised.

A key is `sonotag_ID_SECRET`. The secret has 256 random bits, so that there is nothing to guess: what is kept is one HMAC of
SHA-256 under a salt of the key's own. A slow derivation (scrypt, Argon2) protects what people think up; here it would only
let strangers spend this machine's time with wrong keys. The ID finds the one hash to compare with, whatever the number of
keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["classify", "stream", "metrics", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY: Final = re.compile(r"sonotag_(?P<id>[0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_DIGEST: Final = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key is held to; None is no limit.

    Attributes:
        max_streams: Live streams at once.
        requests_per_minute: Requests and opened streams in any 60 s.
        audio_seconds_per_day: Seconds of sound in any 24 h.
    """

    max_streams: int | None = None
    requests_per_minute: int | None = None
    audio_seconds_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        id: 8 hexadecimal digits, part of the key; nothing secret.
        name: What people and logs call it.
        salt: Of its hash.
        hash: HMAC-SHA-256 of the whole key under the salt.
        scopes: What it is for.
        limits: What it is held to.
        created: When it was made, ISO 8601.
    """

    id: str
    name: str
    salt: bytes
    hash: bytes
    scopes: frozenset[Scope]
    limits: Limits
    created: str

    def matches(self, key: str) -> bool:
        """Return whether this is the key, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(_hash(key, self.salt), self.hash)


NO_KEY: Final = ApiKey("", "", bytes(_SALT_BYTES), bytes(_DIGEST().digest_size), frozenset(), Limits(), "")
"""Compared with where an ID is unknown, so that this takes as long as a wrong secret."""


def make_key(name: str, scopes: frozenset[Scope], limits: Limits, created: str) -> tuple[str, ApiKey]:
    """Return a new key, which nobody can tell again, and what is kept of it."""
    key_id, salt = secrets.token_hex(4), secrets.token_bytes(_SALT_BYTES)
    key = f"sonotag_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, ApiKey(key_id, name, salt, _hash(key, salt), scopes, limits, created)


def looks_like_key(text: str) -> bool:
    """Return whether a credential is a key rather than a token."""
    return text.startswith("sonotag_")


def find_key(text: str, keys: Mapping[str, ApiKey]) -> ApiKey | None:
    """Return the key that a credential is, of those by their ID; None where it is none of them."""
    match = _KEY.fullmatch(text)
    known = keys.get(match["id"], NO_KEY) if match else NO_KEY
    return known if known.matches(text) else None


def _hash(key: str, salt: bytes) -> bytes:
    return hmac.digest(salt, key.encode(), _DIGEST)
