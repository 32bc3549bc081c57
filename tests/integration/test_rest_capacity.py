"""`/v1/capacity`: what there is to do and what can be taken, over all workers, and the measured limit where it counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service import exit_codes
from service.answers import CapacityAnswer
from service.capacity import write_saved
from service.client import AsyncClient, Client
from service.inference.bundle import open_bundle
from service.machine import count_usable_cores
from tests.support.app_server import AppServer, serving
from tests.support.bundles import write_bundle
from tests.support.measurements import make_measurement
from tests.support.process import running
from tests.support.rest import SPEECH, heard, wav
from tests.support.runners import FakeRunner
from tests.support.streams import RAW
from tests.support.websocket import Stream, stream_url


def capacity(server: AppServer) -> CapacityAnswer:
    with Client(server.url) as client:
        return client.capacity()


def test_a_new_service_has_all_its_places_and_no_speed() -> None:
    with serving(max_streams=7, max_queue_windows=9) as server:
        answer = httpx.get(server.url + "/v1/capacity").json()
        assert answer == {
            "streams_open": 0,
            "streams_limit": 7,
            "streams_limit_from": "setting",
            "workers": 1,
            "workers_ready": 1,
            "models": [
                {
                    "model": "fake",
                    "windows_per_second": 0.0,
                    "windows_per_second_possible": None,
                    "queue_depth": 0,
                    "queue_limit": 9,
                    "tuning": "rule",
                    "tuned_at": None,
                }
            ],
            "measured": None,
        }


async def test_it_counts_streams_and_what_waits() -> None:
    runner = FakeRunner()
    with serving(runner) as server:
        runner.hold()
        async with AsyncClient(server.url) as client, Stream(server.url, RAW) as listener:
            await listener.until("ready")
            clip = wav(heard((SPEECH, 1.0)))
            waiting = [asyncio.create_task(client.classify(clip))]
            await asyncio.to_thread(runner.wait_for_runs, 1)
            waiting += [asyncio.create_task(client.classify(clip)) for _ in range(2)]
            while (answer := await client.capacity()).models[0].queue_depth < 2:
                pass
            assert (answer.streams_open, answer.streams_limit, answer.streams_limit_from) == (1, 1000, "default")
            runner.release()
            await asyncio.gather(*waiting)
            while (answer := await client.capacity()).models[0].windows_per_second_possible is None:
                pass
            assert answer.models[0].windows_per_second_possible > 0


async def test_the_measured_limit_refuses_the_stream_that_would_be_too_many(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    write_saved(path, limit=make_measurement(streams=1))
    with serving(capacity_file=path) as server:
        answer = await asyncio.to_thread(capacity, server)
        assert (answer.streams_limit, answer.streams_limit_from) == (1, "measured")
        assert answer.measured is not None
        assert (answer.measured.streams, answer.measured.slo_seconds) == (1, 0.5)
        async with Stream(server.url, RAW) as listener:
            await listener.until("ready")
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, RAW))
            assert refused.value.response.status_code == 503
            assert "measured by sonotag bench on 2026-11-24" in refused.value.response.body.decode()


def test_a_bad_file_stops_the_start_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    path.write_text("[]")
    with running("tests.support.fake_server", environ={"SONOTAG_CAPACITY_FILE": str(path)}, cwd=tmp_path) as service:
        assert service.wait() == exit_codes.START
        assert "SONOTAG_CAPACITY_FILE" in service.stderr


def test_two_workers_answer_as_one_and_divide_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    bundle = write_bundle(tmp_path / "bundle")
    source = open_bundle(bundle).manifest.source
    write_saved(path, limit=make_measurement(streams=25, workers=2, model_sha256=source.sha256))
    environ = {
        "SONOTAG_WORKERS": "2",
        "SONOTAG_CAPACITY_FILE": str(path),
        "SONOTAG_THREADS": "1",
        "SONOTAG_BUNDLES": f"linear={bundle}",
    }
    with running("service", "serve", environ=environ, cwd=tmp_path) as service:
        url = service.wait_ready()
        assert count_usable_cores() == make_measurement().cores
        # Connections are spread over the workers: each of these answers is of one or the other.
        answers = [CapacityAnswer.model_validate(httpx.get(url + "/v1/capacity").json()) for _ in range(8)]
        assert {(one.streams_limit, one.streams_limit_from) for one in answers} == {(25, "measured")}
        assert {(one.workers, one.workers_ready) for one in answers} == {(2, 2)}
        assert {one.models[0].queue_limit for one in answers} == {512}
