"""The load generator on a real service, whose model is a fake: what it counts is what there was."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import pytest
import soundfile

from service import exit_codes
from service.bench.generator import GeneratorError, Generators
from service.bench.orders import CHUNK_SECONDS, ClipsOrder, Interval, StreamsOrder, StreamsResult
from service.bench.sounds import make_clips, read_sounds
from service.bench.stages import run_clips_stage, run_streams_stage
from service.bench.target import OwnServer, Target, TargetError
from service.capacity import read_saved
from service.errors import InvalidParameter
from service.settings import Settings
from tests.support.app_server import AppServer, serving
from tests.support.certificates import make_certificate
from tests.support.keys import add_key
from tests.support.load_plan import PLAN
from tests.support.process import clean_environ, running
from tests.support.rest import measure
from tests.support.runners import FakeRunner, level
from tests.support.shared import REPOSITORY


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(FakeRunner(keeps_calls=False)) as server:
        yield server


def test_live_streams_are_fed_at_real_speed_and_every_window_is_counted(server: AppServer) -> None:
    before = measure(server.url)
    stage = run_streams_stage(Target(server.url), PLAN, 5)
    after = measure(server.url)
    assert (stage.opened, stage.failures, stage.unanswered, stage.dropped_seconds) == (5, (), 0, 0)
    assert stage.windows == pytest.approx(5 * PLAN.measure_seconds / PLAN.hop_seconds, abs=5)
    assert stage.client_lag.p50 is not None
    assert stage.server_lag.p50 is not None
    assert stage.server_lag.p50 <= stage.client_lag.p50 + CHUNK_SECONDS
    assert stage.lateness.largest is not None
    assert stage.generator_cores > 0
    assert stage.server.windows_per_second > 0
    assert stage.server.cores is None, "the processes of another are not ours to see"
    gone = after['sonotag_streams_total{outcome="done"}'] - before['sonotag_streams_total{outcome="done"}']
    assert gone == 5
    received = 'sonotag_audio_received_seconds_total{source="stream"}'
    seconds = PLAN.seconds_for(5) - PLAN.start_seconds
    assert 5 * 0.5 * seconds < after[received] - before[received] < 5 * 1.2 * seconds


def test_streams_that_send_nothing_only_stay_open(server: AppServer) -> None:
    received = 'sonotag_audio_received_seconds_total{source="stream"}'
    before = measure(server.url)[received]
    stage = run_streams_stage(Target(server.url), replace(PLAN, measure_seconds=0.2, grace_seconds=0), 3, is_silent=True)
    assert (stage.opened, stage.windows, stage.failures, stage.broken) == (3, 0, (), ())
    assert measure(server.url)[received] == before


def test_a_service_that_takes_too_few_streams_breaks_the_objective() -> None:
    with serving(max_streams=2) as server:
        stage = run_streams_stage(Target(server.url), replace(PLAN, measure_seconds=0.4, grace_seconds=0.2), 4)
    assert stage.opened == 2
    assert set(stage.failures) == {"the upgrade was refused with 503"}
    assert "2 streams not taken" in stage.broken


def test_a_model_that_is_too_slow_breaks_it_too() -> None:
    runner = FakeRunner(delay_seconds=0.5, batch_sizes=(1,), keeps_calls=False)
    with serving(runner, max_lag_seconds=0.6) as server:
        stage = run_streams_stage(Target(server.url), replace(PLAN, slo_seconds=0.1, grace_seconds=1.0), 3)
    assert stage.unanswered > 0
    assert stage.dropped_seconds > 0
    assert {"lag", "windows dropped"} <= set(stage.broken)


def test_a_model_that_falls_behind_breaks_it_before_the_lag_does() -> None:
    """Ten windows a second at most, and fifteen are sent: the queue is half a second longer with every second."""
    runner = FakeRunner(delay_seconds=0.1, batch_sizes=(1,), keeps_calls=False)
    with serving(runner, max_lag_seconds=60.0) as server:
        stage = run_streams_stage(Target(server.url), replace(PLAN, slo_seconds=60.0), 3)
    assert "growing backlog" in stage.broken
    assert "lag" not in stage.broken


def test_clients_of_rest_ask_again_when_they_are_answered(server: AppServer) -> None:
    clips = make_clips(PLAN.sounds, PLAN.sample_rate)
    route = 'sonotag_requests_total{route="/v1/classify",status="200"}'
    before = measure(server.url).get(route, 0)
    stage = run_clips_stage(Target(server.url), replace(PLAN, measure_seconds=0.5), clips, 3)
    answered = measure(server.url)[route] - before
    assert stage.refused == {}
    assert 0 < stage.clips_per_second * 0.5 <= answered
    assert stage.latency.p99 is not None
    assert stage.server.windows_per_second > stage.clips_per_second, "a five-second clip has five windows of a second"


def test_refusals_are_counted_and_no_answer_is_an_error() -> None:
    runner = FakeRunner(keeps_calls=False)
    with serving(runner) as server:
        server.begin_drain()
        server.wait_ended()
        with pytest.raises((GeneratorError, TargetError)):
            run_clips_stage(Target(server.url), replace(PLAN, measure_seconds=0.1), (b"",), 1)
    with serving(runner) as server:
        stage = run_clips_stage(Target(server.url), replace(PLAN, measure_seconds=0.2), (b"no sound",), 1)
    assert stage.refused == {415: pytest.approx(stage.refused[415])}
    assert stage.clips_per_second == 0


def ask_by_rest(port: int, *, is_secure: bool = False) -> None:
    """Let one client ask the service at a port of this machine for a tenth of a second."""
    now = time.monotonic()
    order = ClipsOrder("127.0.0.1", port, is_secure, "/v1/classify", (b"no sound",), 1, Interval(now, now + 0.1))
    with Generators(1) as generators:
        generators.send([order])
        generators.results()


def test_a_generator_that_fails_says_the_reason() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(GeneratorError, match="a load generator failed: ConnectionRefusedError: "):
            ask_by_rest(closed.getsockname()[1])


def test_a_certificate_that_nobody_here_trusts_is_refused_by_clips_and_streams(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with serving(FakeRunner(keeps_calls=False), tls_certificate_file=certificate, tls_key_file=key) as server:
        port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(GeneratorError, match="CERTIFICATE_VERIFY_FAILED"):
            ask_by_rest(port, is_secure=True)
        now = time.monotonic()
        order = StreamsOrder(
            url=f"wss://127.0.0.1:{port}/v1/stream?encoding=s16le&sample_rate=16000&hop=0.2",
            sounds=(level(1, 16_000).tobytes(),),
            starts=(now,),
            interval=Interval(now, now + 0.1),
            grace_seconds=0.0,
            is_silent=False,
            sample_rate=16_000,
            hop_seconds=0.2,
        )
        with Generators(1) as generators:
            generators.send([order])
            (result,) = generators.results()
    assert isinstance(result, StreamsResult)
    assert result.opened == 0
    assert "CERTIFICATE_VERIFY_FAILED" in result.failures[0]


def test_a_service_behind_tls_is_loaded_with_streams_and_clips(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    search = ("--streams", "1", "--clients", "2", "--idle-streams", "0")
    times = ("--seconds", "0.4", "--hop", "0.2", "--slo", "0.9", "--max-lag-seconds", "0.1")
    sound = ("--sound", str(REPOSITORY / "examples" / "guitar.ogg"))
    with serving(FakeRunner(keeps_calls=False), tls_certificate_file=certificate, tls_key_file=key) as server:
        done = bench("--url", server.url, *search, *times, *sound, "--json", cwd=tmp_path, SSL_CERT_FILE=str(certificate))
    report = json.loads(done.stdout)
    assert [(stage["opened"], stage["failures"]) for stage in report["streams"]] == [(1, [])]
    assert report["streams"][0]["client_lag"]["p50"] is not None
    assert report["clips"][0]["clips_per_second"] > 0
    assert report["clips"][0]["refused"] == {}


def bench(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ(PYTHONPATH=str(REPOSITORY), **variables)
    command = [sys.executable, "-m", "service", "bench", *arguments]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120)


def test_the_command_starts_a_service_and_writes_what_it_found(tmp_path: Path) -> None:
    """An objective that no machine keeps ends the search at once: one stream is too many, and nothing is written.

    The service is one that asks for a key, as the settings say.
    """
    path = tmp_path / "capacity.json"
    keys = tmp_path / "keys.json"
    variables = {"SONOTAG_API_KEYS_FILE": str(keys), "SONOTAG_API_KEY": add_key(keys, "bench", "stream", "metrics")}
    flags = ("--slo", "0.000001", "--first", "1", "--seconds", "0.4", "--hop", "0.2", "--clients", "0", "--idle-streams", "8")
    done = bench(*flags, "--max-lag-seconds", "1", "--json", "--capacity-file", str(path), cwd=tmp_path, **variables)
    assert done.returncode == exit_codes.FAILURE, done.stderr
    report = json.loads(done.stdout)
    assert report["largest"] is None
    assert report["saved"] is None
    assert read_saved(path).limit is None
    (stage,) = report["streams"]
    assert stage["server"]["cores"] > 0, "the processes are ours to see"
    assert stage["broken"] == ["lag"]
    assert report["memory"]["idle_stream"] is not None


def test_a_search_for_which_no_time_is_left_ends_and_has_found_no_limit(tmp_path: Path) -> None:
    flags = ("--first", "1", "--clients", "0", "--idle-streams", "0", "--max-seconds", "0.1", "--no-save", "--json")
    done = bench(*flags, cwd=tmp_path)
    assert done.returncode == exit_codes.FAILURE, done.stderr
    report = json.loads(done.stdout)
    assert (report["streams"], report["largest"], report["is_limit"]) == ([], None, False)


def test_another_service_is_loaded_with_the_key_in_the_file_and_its_limit_is_not_written_here(tmp_path: Path) -> None:
    keys, file, output = tmp_path / "keys.json", tmp_path / "key", tmp_path / "report.json"
    file.write_text(add_key(keys, "bench", "classify", "stream", "metrics") + "\n")
    search = ("--first", "1", "--largest", "2", "--clients", "1", "--idle-streams", "0")
    times = ("--seconds", "0.4", "--hop", "0.2", "--slo", "0.9", "--max-lag-seconds", "0.1")
    sound = ("--sound", str(REPOSITORY / "examples" / "guitar.ogg"))
    with serving(FakeRunner(keeps_calls=False), api_keys_file=keys) as server:
        flags = ("--url", server.url, *sound, *search, *times, "--markdown")
        done = bench(*flags, "--api-key-file", str(file), "--output", str(output), cwd=tmp_path)
        without = bench(*flags, cwd=tmp_path)
    assert done.returncode == exit_codes.OK, done.stderr + done.stdout
    assert "2 or more live streams" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if re.match(r"\| \d", line)] == ["1", "2", "1"]
    report = json.loads(output.read_text())
    assert report["saved"] is None
    assert [stage["failures"] for stage in report["streams"]] == [[], []]
    assert report["clips"][0]["refused"] == {}
    assert report["clips"][0]["clips_per_second"] > 0
    assert file.read_text().strip() not in done.stdout + output.read_text()
    assert without.returncode == exit_codes.FAILURE
    assert "401" in without.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--url", "http://127.0.0.1:9", "--api-key-file", "missing"), exit_codes.FAILURE, "--api-key-file is 'missing'"),
        (("--url", "ftp://nowhere"), exit_codes.FAILURE, "like http://HOST:PORT"),
        (("--url", "http://127.0.0.1:9"), exit_codes.FAILURE, "no answer from http://127.0.0.1:9"),
        (
            ("--bundles", "a=/nonexistent", "--sound", str(REPOSITORY / "examples" / "speech.wav")),
            exit_codes.FAILURE,
            "does not start",
        ),
        (("--sound", "missing.wav"), exit_codes.FAILURE, "missing.wav: No such file"),
        (("--seconds", "0.5"), exit_codes.FAILURE, "at least the hop"),
        (("--slo", "0"), exit_codes.USAGE, "--slo"),
        (("--streams", "many"), exit_codes.USAGE, "N,N,..."),
        (("--workers", "0"), exit_codes.START, "--workers"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_sounds_come_from_files_at_the_rate_that_is_sent(tmp_path: Path) -> None:
    settings = Settings(_env_file=None)
    speech = str(REPOSITORY / "examples" / "speech.wav")
    (at_16k,), (at_48k,) = read_sounds([speech], settings, 16_000), read_sounds([speech], settings, 48_000)
    assert len(at_48k) == pytest.approx(3 * len(at_16k), rel=0.001)
    golden = read_sounds([], settings, 16_000)
    assert golden
    assert all(len(sound) >= 16_000 for sound in golden)
    soundfile.write(tmp_path / "short.wav", level(1, 1600), 16_000)
    with pytest.raises(InvalidParameter, match=r"short\.wav is shorter than 1 s"):
        read_sounds([str(tmp_path / "short.wav")], settings, 16_000)


def test_a_service_that_does_not_start_says_why() -> None:
    with pytest.raises(TargetError, match="--workers"), OwnServer(["--workers", "0"]):
        pass


def test_a_service_whose_start_is_not_waited_for_is_ended(tmp_path: Path) -> None:
    """It says more than a pipe holds, so that who waits for it is reading; then it sends a signal, and would never be ready."""
    (tmp_path / "sleeper.py").write_text(
        "import os, signal, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "print('not yet\\n' * 100_000, flush=True)\n"
        "os.kill(os.getppid(), signal.SIGUSR1)\n"
        "time.sleep(600)\n"
    )

    def give_up(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, give_up)
    try:
        with pytest.raises(KeyboardInterrupt), OwnServer([], module="sleeper", variables={"PYTHONPATH": str(tmp_path)}):
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_told_to_end_leaves_no_service_behind(number: signal.Signals, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    with running("service", "bench", environ={"SONOTAG_TOKEN_SECRET_FILE": str(secret)}, cwd=tmp_path) as bench:
        with secret.open("w"):  # whoever reads it has started
            (service,) = bench.children()
            bench.send_signal(number)
        assert bench.wait() == exit_codes.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(service, 0)


def test_the_service_around_a_free_model_answers_every_window_of_streams_below_real_speed() -> None:
    """A stream at half speed has half the windows in the same time: the same pieces of sound, half as often."""
    with OwnServer(["--log-level", "warning"], module="bench.free_service") as target:
        stage = run_streams_stage(target, replace(PLAN, speed=0.5), 4)
    assert (stage.opened, stage.failures, stage.unanswered, stage.dropped_seconds) == (4, (), 0, 0)
    assert stage.windows == pytest.approx(4 * PLAN.measure_seconds / PLAN.hop_seconds / 2, abs=4)
    assert stage.server.cores is not None
