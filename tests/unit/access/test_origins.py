from __future__ import annotations

import pytest

from service.access.origins import Asked, check_host, check_origin, is_loopback
from service.errors import ForbiddenHost, ForbiddenOrigin


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "forwarded", "is_allowed"),
    [
        (None, "http", "localhost:8000", None, True),
        ("http://localhost:8000", "http", "localhost:8000", None, True),
        ("http://localhost:8000", "ws", "LOCALHOST:8000", None, True),
        ("https://tags.example", "wss", "tags.example", None, True),
        ("https://tags.example", "https", "tags.example:443", None, True),
        ("https://tags.example", "https", "127.0.0.1:8000", "tags.example", True),
        ("http://[::1]:8000", "ws", "[::1]:8000", None, True),
        ("https://page.example", "http", "localhost", None, True),
        ("http://localhost:8001", "http", "localhost:8000", None, False),
        ("https://localhost:8000", "http", "localhost:8000", None, False),
        ("http://tags.example", "wss", "tags.example", None, False),
        ("http://127.0.0.1:8000", "http", "localhost:8000", None, False),
        ("http://127.0.0.1:8000", "http", "127.0.0.1:8000", "tags.example", False),
        ("https://page.example.evil.example", "http", "localhost", None, False),
        ("http://localhost:8000", "http", None, None, False),
        ("http://localhost:port", "http", "localhost:8000", None, False),
        ("null", "http", "localhost", None, False),
        ("", "http", "localhost", None, False),
        ("file://", "http", "localhost", None, False),
    ],
)
def test_a_page_is_let_in_from_the_services_own_origin_and_from_those_that_are_allowed(
    origin: str | None, scheme: str, host: str | None, forwarded: str | None, is_allowed: bool
) -> None:
    asked = Asked(scheme, host, forwarded, origin)
    if is_allowed:
        check_origin(asked, ("https://page.example",))
    else:
        with pytest.raises(ForbiddenOrigin, match="SONOTAG_CORS_ORIGINS"):
            check_origin(asked, ("https://page.example",))
    check_origin(asked, ("*",))


@pytest.mark.parametrize(
    ("host", "is_known", "is_known_to_others"),
    [
        (None, True, True),
        ("localhost", True, True),
        ("localhost:8000", True, True),
        ("a.localhost:8000", True, True),
        ("127.0.0.1:8000", True, True),
        ("127.9.9.9", True, True),
        ("[::1]:8000", True, True),
        ("tags.example", True, True),
        ("TAGS.example.:443", True, True),
        ("a.wide.example", True, True),
        ("192.0.2.7:8000", False, True),
        ("[2001:db8::1]:8000", False, True),
        ("wide.example", False, False),
        ("evil.example", False, False),
        ("evil.example:8000", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("evilwide.example", False, False),
        ("0x7f.1", False, False),
        ("", True, True),
    ],
)
def test_a_name_is_the_services_or_refused(host: str | None, is_known: bool, is_known_to_others: bool) -> None:
    for takes_addresses, expected in ((False, is_known), (True, is_known_to_others)):
        for asked in (Asked("http", host), Asked("http", "localhost", forwarded_host=host)):
            if expected:
                check_host(asked, ("tags.example", "*.wide.example"), takes_addresses=takes_addresses)
            else:
                with pytest.raises(ForbiddenHost, match="SONOTAG_ALLOWED_HOSTS"):
                    check_host(asked, ("tags.example", "*.wide.example"), takes_addresses=takes_addresses)
    check_host(Asked("http", host), ("*",), takes_addresses=False)


def test_a_good_forwarded_host_does_not_make_a_bad_one_good() -> None:
    with pytest.raises(ForbiddenHost):
        check_host(Asked("http", "evil.example", forwarded_host="localhost"), (), takes_addresses=False)


def test_loopback_is_this_machine_and_nothing_else() -> None:
    assert all(map(is_loopback, ("localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "tags.example")))
