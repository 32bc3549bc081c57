from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from service.access.keys import ApiKey, Limits, Scope, make_key
from service.access.tokens import TokenSigner, load_token_secret
from service.errors import SettingsError, Unauthorised
from tests.support.keys import CREATED

SECRET = b"s" * 32
NOW = 1_800_000_000.0


def key_for(*scopes: Scope) -> ApiKey:
    return make_key("page", frozenset(scopes), Limits(), CREATED)[1]


def signer(now: float = NOW, secret: bytes = SECRET) -> TokenSigner:
    return TokenSigner(secret, lambda: now)


KEY = key_for("classify", "stream")
KEYS = {KEY.id: KEY}
TOKEN = signer().sign(KEY, frozenset({"stream"}), 60)


def test_a_token_is_for_what_it_was_made_for_with_any_worker_that_knows_the_secret() -> None:
    grant = signer().verify(TOKEN, KEYS)
    assert (grant.key, grant.scopes) == (KEY, {"stream"})


def test_a_token_ends() -> None:
    assert signer(NOW + 60).verify(TOKEN, KEYS)
    with pytest.raises(Unauthorised, match="too old"):
        signer(NOW + 70).verify(TOKEN, KEYS)


def test_a_token_is_for_no_more_than_its_key_is_now() -> None:
    less = ApiKey(KEY.id, KEY.name, KEY.salt, KEY.hash, frozenset({"classify"}), KEY.limits, KEY.created)
    assert signer().verify(TOKEN, {less.id: less}).scopes == frozenset()


def test_a_revoked_key_takes_its_tokens_along_also_where_another_has_its_id() -> None:
    other = key_for("stream")
    renamed = ApiKey(KEY.id, other.name, other.salt, other.hash, other.scopes, other.limits, other.created)
    for keys in ({}, {other.id: other}, {renamed.id: renamed}):
        with pytest.raises(Unauthorised):
            signer().verify(TOKEN, keys)


def test_who_has_the_file_of_keys_alone_can_make_no_token() -> None:
    forged = TokenSigner(b"x" * 32, lambda: NOW).sign(KEY, frozenset({"stream"}), 60)
    with pytest.raises(Unauthorised):
        signer().verify(forged, KEYS)


def test_what_is_no_token_of_ours_is_refused() -> None:
    head, body, signature = TOKEN.split(".")
    claims = {"aud": "sonotag", "exp": int(NOW) + 60, "scope": "stream"}
    wrong = [
        "",
        "x",
        "a.b.c",
        f"{head}.{body}.",
        f"{head}.{body[:-2]}.{signature}",
        f"{head}.{signature}.{body}",
        jwt.encode(claims, None, "none", headers={"kid": KEY.id}),
        jwt.encode(claims, "y" * 32, "HS256", headers={"kid": KEY.id}),
        jwt.encode(claims, "y" * 32, "HS256"),
        "\x00" * 40,
        "sonotag.bearer.",
    ]
    for token in wrong:
        with pytest.raises(Unauthorised):
            signer().verify(token, KEYS)


def test_the_secret_comes_from_a_file_or_is_new_each_time(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef" * 2 + "\n")
    assert load_token_secret(path) == b"0123456789abcdef" * 2
    assert load_token_secret(None) != load_token_secret(None)
    path.write_text("short")
    with pytest.raises(SettingsError, match="5 bytes") as caught:
        load_token_secret(path)
    assert "short" not in str(caught.value)
    with pytest.raises(SettingsError, match="SONOTAG_TOKEN_SECRET_FILE"):
        load_token_secret(tmp_path / "none")
