"""What the README says: its examples run for real, its tables follow from the code, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import wave
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from export.cli import main as export
from service import exit_codes
from service.cli import run_command
from service.client.async_client import API_KEY_VARIABLE
from tests.support.checkpoints import Spec, write_checkpoint
from tests.support.process import ServiceProcess, running
from tests.support.prometheus import GPU_SERIES
from tests.support.readme import (
    GENERATED,
    README,
    Example,
    read_examples,
    read_generated,
    read_table,
    service_errors,
)
from tests.support.shared import REPOSITORY
from tests.support.sounds import encode, tone

ADDRESS = "127.0.0.1:8000"
HUB_NAME = "MIT/ast-finetuned-audioset-10-10-0.4593"
EXAMPLES = read_examples()
TOLERANCE = 0.02
"""What is shown was scored in float32, and the embedded model serves in int8 where the CPU is made for it."""


def of_language(language: str, marker: str = "run") -> list[Example]:
    return [example for example in EXAMPLES if (example.marker, example.language) == (marker, language)]


def by_line(example: Example) -> str:
    return f"line {example.line}"


def run(command: list[str], server: ServiceProcess) -> str:
    """Run an example where a reader would, against this server, with this environment's commands; return what it prints."""
    address = server.url.removeprefix("http://")
    here = str(Path(sys.executable).parent)
    # A shell of its own finds `sonotag` where this interpreter is.
    environ = {"PATH": f"{here}:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    command = [part.replace(ADDRESS, address) for part in command]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer_of(example: Example) -> Example | None:
    """Return the block that shows what an example prints."""
    following = EXAMPLES[EXAMPLES.index(example) + 1 :]
    return following[0] if following and following[0].marker == "answer" else None


def read_json(text: str) -> list[Any]:
    """Return one document, or a document for each line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def read_words(text: str) -> list[Any]:
    """Return printed text as its words and numbers."""
    return [float(word) if "." in word else word for word in re.findall(r"\d+\.\d+|\w+|[^\w\s]", text)]


def rounded(value: Any) -> Any:
    """Return a document in which numbers compare equal that are nearly equal."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value


@pytest.mark.parametrize("example", of_language("sh"), ids=by_line)
def test_a_command_of_the_readme_does_what_it_shows(example: Example, embedded_server: ServiceProcess) -> None:
    printed = run(["bash", "-euo", "pipefail", "-c", example.text.replace("curl ", "curl -sS ")], embedded_server)
    assert printed
    if (answer := answer_of(example)) is not None:
        assert read_json(printed) == rounded(read_json(answer.text)), printed


@pytest.mark.parametrize("example", of_language("python"), ids=by_line)
def test_a_program_of_the_readme_hears_what_is_there(example: Example, embedded_server: ServiceProcess) -> None:
    printed = run([sys.executable, "-W", "error", "-c", example.text], embedded_server)
    if (answer := answer_of(example)) is not None:
        assert read_words(printed) == rounded(read_words(answer.text)), printed
    else:
        assert "Speech" in printed or "Guitar" in printed


def test_the_command_for_an_address_goes_with_what_else_it_names(embedded_server: ServiceProcess) -> None:
    """With a file in the place of the camera: test_listen_addresses.py has the addresses."""
    [example] = of_language("sh", "run: address")
    command, address = example.text.rsplit(maxsplit=1)
    assert address.startswith("rtsp://")
    printed = run(["bash", "-euo", "pipefail", "-c", f"{command} --pace 0 examples/crow.flac"], embedded_server)
    assert "1 windows" in printed or "1 window" in printed


async def test_the_browsers_address_takes_what_a_browser_records(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    [example] = of_language("js")
    url = re.search(r'WebSocket\("([^"]+)"\)', example.text)
    assert url
    recorded = encode(tmp_path, tone(2, 440, 48_000), 48_000, "recorded.webm", "-c:a", "libopus", "-b:a", "64k").read_bytes()
    async with websockets.connect(url[1].replace(ADDRESS, embedded_server.url.removeprefix("http://"))) as stream:
        for start in range(0, len(recorded), 1600):
            await stream.send(recorded[start : start + 1600])
        await stream.send(json.dumps({"type": "stop"}))
        messages = [json.loads(text) async for text in stream]
    # Opus begins a few milliseconds before the sound and is cut off at its end.
    assert [message["end"] for message in messages if message["type"] == "tags"][:3] == [0.5, 1, 1.5]
    assert messages[-1]["type"] == "summary"
    assert messages[-1]["duration"] == pytest.approx(2, abs=0.05)


async def test_the_messages_are_what_goes_over_the_wire(embedded_server: ServiceProcess) -> None:
    [client], [server] = of_language("json", "client"), of_language("json", "server")
    sound = read_speech()[: 2 * 16_000 * 2 + 1600]
    url = embedded_server.url.replace("http", "ws") + "/v1/stream"
    start, *others = client.text.splitlines()
    async with websockets.connect(url) as stream:
        await stream.send(start)
        await stream.send(sound)
        for message in others:
            await stream.send(message)
        received = [json.loads(text) async for text in stream]
    types = [message["type"] for message in received]
    assert types[0] == "ready"
    assert "error" not in types
    for line in server.text.splitlines():
        shown = json.loads(line)
        real = next(message for message in received if message["type"] == shown["type"])
        assert list(real) == list(shown)


def read_speech() -> bytes:
    """Return the samples of the example: 16 kHz, mono, 16 bits."""
    with wave.open(str(REPOSITORY / "examples" / "speech.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        return sound.readframes(sound.getnframes())


def test_the_export_of_the_readme_makes_a_bundle_that_serves(tmp_path: Path) -> None:
    """With a small checkpoint in place of the hub's name, and one precision, which saves most of the time."""
    [example] = of_language("sh", "run: export")
    exported, serve = (shlex.split(line) for line in example.text.splitlines())
    assert HUB_NAME in exported
    bundle = exported[-1]
    checkpoint = write_checkpoint(tmp_path / "checkpoint", Spec(num_layers=1))
    program = Path(sys.executable).with_name(exported[0])
    arguments = [str(checkpoint) if part == HUB_NAME else part for part in exported[1:]]
    command = [str(program), *arguments, "--precision", "fp32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / bundle / "bundle.json").is_file()
    variable, _, value = serve[0].partition("=")
    name = value.partition("=")[0]
    assert serve[1:] == ["sonotag", "serve"]
    with running("service", "serve", environ={variable: value}, cwd=tmp_path) as service:
        models = httpx.get(service.wait_ready() + "/v1/models").json()
        assert [model["name"] for model in models["models"]] == [name]


@pytest.mark.parametrize("name", GENERATED)
def test_a_table_is_what_the_code_says(name: str) -> None:
    assert read_generated(name) == GENERATED[name](), "run: python -m tests.support.readme"


def test_the_close_codes_are_those_of_the_errors() -> None:
    expected: dict[int, set[str]] = defaultdict(set, {1000: set(), 1009: set()})
    for kind in service_errors():
        expected[kind.close_code].add(kind.code)
    rows = read_table("| close | meaning | codes of the error before it |")
    assert {int(close): set(re.findall(r"`(\w+)`", codes)) for close, _, codes in rows} == expected


def test_the_metrics_are_those_that_are_served(embedded_server: ServiceProcess) -> None:
    httpx.get(embedded_server.url + "/v1/labels").raise_for_status()
    served: dict[str, set[str]] = {}
    for line in httpx.get(embedded_server.url + "/metrics").text.splitlines():
        if match := re.match(r"# TYPE (sonotag_\w+) ", line):
            name = match[1]
            served[name] = set()
        elif line.startswith("sonotag_"):
            served[name] |= set(re.findall(r'[{,](\w+)="', line)) - {"le"}
    rows = read_table("| metric | labels | meaning |")
    told = {name.strip("`"): set(re.findall(r"`(\w+)`", labels)) for name, labels, _ in rows}
    assert told == {series: {"gpu"} for series in GPU_SERIES} | served


def test_the_commands_are_those_that_there_are(embedded_server: ServiceProcess) -> None:
    printed = run(["sonotag", "--help"], embedded_server)
    rows = read_table("| command | what it does |")
    documented = [match[1] for row in rows if (match := re.match(r"`sonotag (\w+)", row[0]))]
    assert documented == re.findall(r"^    (\w+)  ", printed, re.MULTILINE)


def test_the_parameters_are_those_of_the_api(embedded_server: ServiceProcess) -> None:
    operation = httpx.get(embedded_server.url + "/openapi.json").json()["paths"]["/v1/classify"]["post"]
    rows = read_table("| parameter | default | meaning |")
    assert [row[0].strip("`") for row in rows] == [parameter["name"] for parameter in operation["parameters"]]


def test_every_call_is_there(embedded_server: ServiceProcess) -> None:
    paths = httpx.get(embedded_server.url + "/openapi.json").json()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    documented = {call for row in read_table("| call | what it does |") for call in re.findall(r"`([A-Z]+ /[^`]*)`", row[0])}
    assert documented == calls | {"GET /", "GET /docs"}
    for page in ("/", "/docs"):
        assert httpx.get(embedded_server.url + page).status_code == 200


def test_every_flag_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    docker = r"(?m)`docker[^`]*`|^docker .*$|`--(?:target|build-arg|stop-timeout)[^`]*`"
    text = re.sub(docker, "", README.read_text())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--data-binary", "--constraint", "--help"}
    ours = ("serve", "classify", "listen", "bench", "version", "keys create", "keys list")
    for name in ours:
        assert run_command([*name.split(), "--help"]) == exit_codes.OK
    for arguments in ([], ["init"]):
        with pytest.raises(SystemExit) as end:
            export([*arguments, "--help"])
        assert end.value.code == 0
    assert named <= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", [*REPOSITORY.glob("*.md"), REPOSITORY / "examples" / "README.md"], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"SONOTAG_[A-Z_]+", README.read_text()))
    known = set(re.findall(r"^\| `(SONOTAG_[A-Z_]+)`", read_generated("settings"), re.MULTILINE))
    assert named <= known | {API_KEY_VARIABLE}
