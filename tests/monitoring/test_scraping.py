"""A real Prometheus scrapes a real service of two workers: it sees what was sent, and nothing that clients make up."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
import yaml
from websockets.exceptions import ConnectionClosed

from service.metrics import (
    DECODER_FAILURES,
    DROP_REASONS,
    OTHER,
    REFUSALS,
    REPLACEMENT_CAUSES,
    SOURCES,
    STAGES,
    STREAM_OUTCOMES,
    WASTE_REASONS,
)
from tests.support.process import ServiceProcess, running
from tests.support.prometheus import (
    ALERTS,
    GPU_SERIES,
    RECORDING,
    Prometheus,
    Query,
    name_series,
    read_queries,
    read_rules,
    running_prometheus,
)
from tests.support.readme import read_example
from tests.support.shared import REPOSITORY
from tests.support.websocket import Stream, stream_pieces

SPEECH = REPOSITORY / "examples" / "speech.wav"
SECONDS = 83_915 / 16_000
# Two windows of 5.135 s cover the clip; a stream of it with a hop of one second ends in six.
CLIP_WINDOWS, STREAM_WINDOWS = 2, 6
PATIENCE_SECONDS = 120
WORK = 'route=~"/v1/.*|/compat/.*|other"'


@dataclass
class Load:
    """What was sent to a service, as its counters should say it.

    Args:
        url: The service.
    """

    url: str
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    windows: int = 0

    def ask(self, route: str, status: int, method: str, path: str, **options: Any) -> None:
        """Send a request, on a connection of its own so that any worker may get it, and note its answer."""
        answer = httpx.request(method, self.url + path, timeout=60, **options)
        assert answer.status_code == status, answer.text
        self.answers[route, str(status)] += 1

    def send_round(self) -> None:
        """Send a little of everything: clips, what is refused, and streams."""
        clip = SPEECH.read_bytes()
        for path, windows in (("/v1/classify", CLIP_WINDOWS), ("/compat/huggingface", CLIP_WINDOWS)):
            self.ask(path, 200, "POST", path, content=clip)
            self.seconds["clip"] += SECONDS
            self.windows += windows
        self.ask("/v1/classify", 400, "POST", "/v1/classify?labels=Speach", content=clip)
        self.ask("/v1/classify", 415, "POST", "/v1/classify", content=b"no sound")
        self.ask("other", 404, "GET", "/nowhere")
        asyncio.run(self._send_streams())

    async def _send_streams(self) -> None:
        samples = soundfile.read(SPEECH, dtype="int16")[0].tobytes()
        query = {"encoding": "s16le", "sample_rate": 16_000, "channels": 1, "hop": 1.0, "on_lag": "wait"}
        told = await asyncio.gather(*(stream_pieces(self.url, query, [samples]) for _ in range(2)))
        for one in told:
            assert one.code == 1000
            assert len(one.tags) == STREAM_WINDOWS
        refused = await stream_pieces(self.url, query | {"sample_rate": 1}, [samples])
        assert refused.code == 4400
        self.outcomes.update([("done",), ("done",), ("bad_configuration",)])
        self.seconds["stream"] += 2 * SECONDS
        self.windows += 2 * STREAM_WINDOWS


def poll(is_so: Callable[[], object], between: Callable[[], object] = lambda: None) -> None:
    """Ask until it is so; Prometheus sees everything a scrape later. What is asked is a request to it, which takes its time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so"
        between()


@pytest.fixture(scope="module")
def metrics_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, metrics_folder: Path) -> Iterator[ServiceProcess]:
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(metrics_folder)}
    environ |= {"SONOTAG_WORKERS": "2", "SONOTAG_THREADS": "1", "SONOTAG_PROVIDER": "cpu", "SONOTAG_MAX_STREAMS": "101"}
    with running("service", "serve", environ=environ, cwd=tmp_path_factory.mktemp("service")) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="module")
def prometheus(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), service.url.removeprefix("http://")) as client:
        poll(lambda: client.query('up{job="sonotag"} == 1'))
        yield client


@pytest.fixture(scope="module")
def load(service: ServiceProcess) -> Load:
    return Load(service.url)


def test_every_query_of_every_panel_and_rule_returns_data(prometheus: Prometheus, load: Load) -> None:
    queries = read_queries()
    rules = read_rules(RECORDING) + read_rules(ALERTS)
    for name in sorted(set().union(*(name_series(rule["expr"]) for rule in rules))):
        queries.append(Query("a rule", "series", name))
    queries += [Query("a recording", "series", rule["record"]) for rule in read_rules(RECORDING)]
    [own] = yaml.safe_load(read_example("rules", "yaml"))["groups"][0]["rules"]
    queries.append(Query("the README's alert", "series", own["expr"].rpartition(">")[0]))
    silent = [query for query in queries if name_series(query.expression) & GPU_SERIES]
    assert {query.panel for query in silent} == {"a rule", "GPU memory", "GPU utilisation"}
    waiting = [query for query in queries if query not in silent]

    def all_have_data() -> bool:
        # A heat map without a count shows nothing, whatever zeros it is given.
        empty = []
        for query in waiting:
            values = prometheus.query(query.expression).values()
            if not (any(value > 0 for value in values) if query.kind == "heatmap" else values):
                empty.append(query)
        waiting[:] = empty
        return not waiting

    # The first increments of a series that appears with them are seen by no rate: so there are several rounds.
    load.send_round()
    poll(all_have_data, load.send_round)
    for query in silent:
        assert prometheus.query(query.expression) == {}


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def read() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    poll(lambda: all(rule["health"] != "unknown" for rule in read()))
    assert len(read()) == len(read_rules(RECORDING)) + len(read_rules(ALERTS))
    assert [rule for rule in read() if rule["health"] != "ok" or rule.get("lastError")] == []


def test_the_dashboard_finds_the_instance(prometheus: Prometheus, service: ServiceProcess) -> None:
    found = prometheus.get("label/instance/values", **{"match[]": 'sonotag_build_info{job="sonotag"}'})
    assert found == [service.url.removeprefix("http://")]


def test_limits_and_readiness_are_those_of_all_workers_together(prometheus: Prometheus) -> None:
    for name, value in {
        "sonotag_workers": 2,
        "sonotag_workers_ready": 2,
        "sonotag_streams_limit": 101,
        "sonotag_queue_limit_windows": 2 * 256,
        "sonotag_window_lag_limit_seconds": 2,
        "sonotag_model_fallback": 0,
    }.items():
        assert list(prometheus.query(f"sum({name})").values()) == [value], name


def test_the_counters_agree_with_what_was_sent(prometheus: Prometheus, load: Load) -> None:
    load.send_round()
    poll(lambda: prometheus.query(f"sum by (route, status) (sonotag_requests_total{{{WORK}}})") == load.answers)
    poll(lambda: prometheus.query("sum by (outcome) (sonotag_streams_total) > 0") == load.outcomes)
    for source in SOURCES:
        received = f'sum(sonotag_audio_received_seconds_total{{source="{source}"}})'
        poll(lambda received=received, source=source: prometheus.query(received)[()] == pytest.approx(load.seconds[source]))
    for name in (
        "sonotag_windows_scored_total",
        "sonotag_batch_size_windows_sum",
        'sonotag_stage_duration_seconds_count{stage="queue"}',
    ):
        poll(lambda name=name: prometheus.query(f"sum({name})") == {(): load.windows})
    assert prometheus.query("sum(sonotag_window_lag_seconds_count)") == {(): STREAM_WINDOWS * load.outcomes["done",]}
    assert prometheus.query("sum(sonotag_audio_dropped_seconds_total)") == {(): 0}
    assert prometheus.query("sum(sonotag_streams_open)") == prometheus.query("sum(sonotag_queue_depth_windows)") == {(): 0}


async def send_odd_streams(url: str, number: int) -> None:
    """Open streams whose parameters nobody else has."""
    for query in (
        {"model": f"model-{number}"},
        {f"odd-{number}": 1},
        {"encoding": f"codec-{number}"},
        {"labels": f"l{number}"},
    ):
        async with Stream(url, query, additional_headers={"X-Request-Id": f"id-{number}"}) as listener:
            with suppress(ConnectionClosed):  # most of them are refused by then
                await listener.send({"type": f"type-{number}"})
            await listener.closed()


def send_oddities(load: Load, number: int) -> None:
    """Send requests whose paths, models, labels, ids, methods, headers and parameters nobody else has."""
    headers = {"X-Request-Id": f"id-{number}", "User-Agent": f"agent-{number}", "Host": f"host-{number}"}
    clip = SPEECH.read_bytes()
    with httpx.Client(base_url=load.url, headers=headers, timeout=60) as client:
        client.get(f"/odd/{number}")
        client.get(f"/v1/models/model-{number}")
        client.get("/v1/labels", params={"model": f"model-{number}"})
        client.request(f"ODD{number}", "/v1/classify")
        client.request(f"ODD{number}", f"/odd/{number}")
        client.post("/v1/classify", params={"model": f"model-{number}"}, content=clip)
        client.post("/v1/classify", params={"labels": f"label-{number}"}, content=clip)
        client.post("/v1/classify", params={f"parameter-{number}": "1"}, content=clip)
        client.post(f"/v1/classify/{number}", content=clip)
        client.get(f"/docs/{number}")
        client.get("/", params={"number": number})
    asyncio.run(send_odd_streams(load.url, number))


def test_no_client_makes_new_series(prometheus: Prometheus, load: Load, service: ServiceProcess) -> None:
    def count_requests() -> float:
        return prometheus.query('sum(sonotag_requests_total{route!="/metrics"})').get((), 0)

    def send(numbers: range) -> None:
        """Send oddities and wait until Prometheus has seen them."""
        before = count_requests()
        for number in numbers:
            send_oddities(load, number)
        poll(lambda: count_requests() >= before + 11 * len(numbers))

    send(range(1))
    known = prometheus.series()
    send(range(1, 25))
    assert prometheus.series() == known

    routes = set(httpx.get(f"{service.url}/openapi.json").json()["paths"]) | {"/", "/docs", "/openapi.json", OTHER}
    values: dict[str, set[str]] = {}
    for labels in known:
        for name, value in labels:
            values.setdefault(name, set()).add(value)
    assert values["route"] <= routes
    assert values["stage"] == set(STAGES)
    assert values["reason"] == {*DECODER_FAILURES, *DROP_REASONS, *REFUSALS, *WASTE_REASONS}
    assert values["cause"] == set(REPLACEMENT_CAUSES)
    assert values["outcome"] == set(STREAM_OUTCOMES)
    assert values["source"] == set(SOURCES)
    assert len(values["model"]) == len(values["source_sha256"]) == 1
    # The names that a clip, a stream or a header could bring are no labels at all.
    allowed = {"route", "status", "stage", "reason", "cause", "outcome", "source", "model", "le", "provider", "precision"}
    allowed |= {"source_sha256", "version", "python", "onnxruntime", "__name__", "job", "instance"}
    assert set(values) == allowed


def test_a_worker_that_dies_is_missed_until_another_one_is_ready(
    prometheus: Prometheus, service: ServiceProcess, metrics_folder: Path
) -> None:
    def ready(function: str) -> float:
        return prometheus.query(f"sum({function}(sonotag_workers_ready[5m]))")[()]

    assert ready("min_over_time") == 2
    victim = min(int(path.stem.rpartition("_")[2]) for path in metrics_folder.glob("gauge_livesum_*.db"))
    os.kill(victim, signal.SIGKILL)
    service.wait_for_line(rf"a worker died .*pid={victim} code=-9")
    # What was scraped meanwhile stays to be asked for, however late this is.
    poll(lambda: ready("min_over_time") == 1)
    poll(lambda: prometheus.query('max_over_time(ALERTS{alertname="SonotagNotReady", alertstate="pending"}[5m])'))
    poll(lambda: prometheus.query("sum(sonotag_workers_ready)") == {(): 2})
    assert prometheus.query("sum(sonotag_workers)") == {(): 2}
