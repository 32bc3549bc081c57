"""The pages' files over HTTP: types, caching, what may be asked for, and that nothing comes from elsewhere."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx
import pytest

from service.api.page import WEB_FOLDER
from tests.support.app_server import AppServer, serving

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGES = ("/", "/docs")
FILES = sorted(path.name for path in WEB_FOLDER.iterdir() if path.is_file())


@pytest.mark.parametrize("name", FILES)
def test_every_file_comes_with_its_type_and_is_asked_for_anew_each_time(fake_server: AppServer, name: str) -> None:
    answer = httpx.get(f"{fake_server.url}/web/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == TYPES[name[name.rindex(".") :]]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.content == (WEB_FOLDER / name).read_bytes()
    known = {"If-None-Match": answer.headers["etag"]}
    again = httpx.get(f"{fake_server.url}/web/{name}", headers=known)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lets_the_browser_load_nothing_from_elsewhere(fake_server: AppServer, path: str) -> None:
    answer = httpx.get(fake_server.url + path)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "script-src" not in answer.headers["content-security-policy"]


def test_no_file_names_anything_elsewhere() -> None:
    for name in FILES:
        text = (WEB_FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, name


def test_what_the_files_name_is_there(fake_server: AppServer) -> None:
    page = fake_server.url + "/"
    named: set[str] = set()
    for file in WEB_FOLDER.glob("*.html"):
        named |= {urljoin(page, match) for match in re.findall(r'(?:href|src)="([^"#]+)"', file.read_text())}
    for file in WEB_FOLDER.glob("*.js"):
        names = re.findall(r'(?:from|URL\() ?"(\./[^"]+)"', file.read_text())
        named |= {urljoin(f"{page}web/{file.name}", name) for name in names}
    assert len(named) > 15
    assert {url: httpx.get(url).status_code for url in named} == dict.fromkeys(named, 200)


@pytest.mark.parametrize("path", ["/web/none.js", "/web/", "/web/..%2Fapp.py", "/web/%2e%2e/%2e%2e/pyproject.toml", "/web/%00"])
def test_what_is_no_file_of_the_pages_is_not_found_in_the_services_own_shape(fake_server: AppServer, path: str) -> None:
    answer = httpx.get(fake_server.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_under_a_root_path_the_page_is_where_its_relative_addresses_lead() -> None:
    with serving(root_path="/sonotag") as server:
        answer = httpx.get(server.url + "/sonotag", follow_redirects=True)
        assert answer.url.path == "/sonotag/"
        assert httpx.get(urljoin(str(answer.url), "web/app.js")).status_code == 200
