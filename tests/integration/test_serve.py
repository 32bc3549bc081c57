"""`sonotag serve` as a person meets it: the real application, the embedded model, the printed command."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from tests.support.bundles import write_bundle
from tests.support.process import running

REPOSITORY = Path(__file__).resolve().parents[2]


def small_model(folder: Path) -> dict[str, str]:
    """Return the setting of a model that is loaded at once, for what does not depend on the model."""
    return {"SONOTAG_BUNDLES": f"linear={write_bundle(folder / 'bundle')}"}


def test_the_printed_command_works_as_it_stands() -> None:
    with running("service", "serve", cwd=REPOSITORY) as service:
        service.wait_ready()
        command = service.wait_for_line(r"Try it:  (.+)")[1]
        assert command.startswith("curl -F file=@examples/speech.wav http://127.0.0.1:")
        done = subprocess.run(shlex.split(command), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["tags"][0]["label"] == "Speech"
        assert service.end_cleanly() == exit_codes.OK


def test_on_a_unix_socket_it_works_too(tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    with running("service", "serve", "--unix-socket", str(path), cwd=tmp_path) as service:
        service.wait_ready()
        command = service.wait_for_line(r"Try it:  (.+)")[1]
        done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["tags"][0]["label"] == "Speech"


def test_standard_output_holds_the_address_and_the_log_is_json_beside_it(tmp_path: Path) -> None:
    with running("service", "serve", "--log-format", "json", environ=small_model(tmp_path), cwd=tmp_path) as service:
        url = service.wait_ready()
        assert httpx.get(url + "/v1/labels", headers={"X-Request-Id": "my-id"}).status_code == 200
        assert service.end_cleanly() == exit_codes.OK
        assert len(service.output) == 2
        lines = [json.loads(line) for line in service.errors]
        [answered] = [line for line in lines if line.get("request_id") == "my-id"]
        assert (answered["route"], answered["status"]) == ("/v1/labels", 200)
        assert not [line for line in lines if line["level"] in ("warning", "error")]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--bundles", "mine=nowhere"), "model mine in nowhere: nowhere is no bundle"),
        (("--precision", "int8"), "SONOTAG_PRECISION"),
        (("--port", "70000"), "--port is '70000'"),
        (("--events", '{"per_label": {"Speach": {"onset_threshold": 0.9}}}'), "SONOTAG_EVENTS does not fit model"),
    ],
)
def test_what_cannot_start_says_why_and_has_its_own_exit_code(
    workers: str, flags: tuple[str, str], reason: str, tmp_path: Path
) -> None:
    environ = small_model(tmp_path)
    with running("service", "serve", "--workers", workers, *flags, environ=environ, cwd=tmp_path) as service:
        assert service.wait() == exit_codes.START
        assert service.output == []
        assert reason in service.stderr
        assert "Traceback" not in service.stderr
        assert len([line for line in service.errors if reason in line]) <= int(workers), "once for each process"
