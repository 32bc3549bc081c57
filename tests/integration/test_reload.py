"""The models are replaced while a real service answers, with one process and with two."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from tests.support.bundles import write_bundle
from tests.support.greedy_graphs import with_huge_tensor_when_run
from tests.support.process import ServiceProcess, running
from tests.support.rest import SPEECH, heard, wav
from tests.support.websocket import Stream

RAW = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.1}
TENTH = heard((SPEECH, 0.1)).tobytes()
CLIP = wav(heard((SPEECH, 1.0)))


def put_bundle(folder: Path, version: str, *, is_wrong: bool = False, model: onnx.ModelProto | None = None) -> None:
    """Put a bundle into place as people should: whole, by renaming."""

    def rename_source(document: dict[str, Any]) -> None:
        document["source"]["sha256"] = version * 64

    def spoil(arrays: dict[str, Any]) -> None:
        if is_wrong:
            arrays["scores"] = 1 - arrays["scores"]

    write_bundle(folder.with_name(f"bundle-{version}"), model=model, golden=spoil, manifest=rename_source)
    if folder.exists():
        folder.rename(folder.with_name(f"before-{version}"))
    folder.with_name(f"bundle-{version}").rename(folder)


async def served_versions(url: str) -> set[str]:
    """Return the first letters of the hashes that are served, by whichever worker answers each of many connections."""
    found = set()
    for _ in range(20):
        async with httpx.AsyncClient(timeout=60) as client:
            [model] = (await client.get(url + "/v1/models")).json()["models"]
        found.add(model["source"]["sha256"][0])
    return found


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[list[int]]:
    """Ask for clips and readiness all the time; every answer's status is collected."""
    statuses: list[int] = []

    async def ask() -> None:
        while True:
            async with httpx.AsyncClient(timeout=60) as client:
                statuses.append((await client.post(url + "/v1/classify?hop=0.1", content=CLIP)).status_code)
                statuses.append((await client.get(url + "/health/ready")).status_code)

    tasks = [asyncio.create_task(ask()) for _ in range(2)]
    try:
        yield statuses
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []


def closed_models(service: ServiceProcess, count: int) -> None:
    """Wait until old models were closed so often in all processes together."""
    while sum("the old models are closed" in line for line in service.errors) < count:
        service.wait_for_line("the old models are closed")


@asynccontextmanager
async def serving_bundle(tmp_path: Path, **environ: str) -> AsyncIterator[tuple[ServiceProcess, Path]]:
    folder = tmp_path / "bundle"
    put_bundle(folder, "a")
    environ |= {"SONOTAG_BUNDLES": f"linear={folder}", "SONOTAG_PROVIDER": "cpu"}
    with running("service", "serve", cwd=tmp_path, environ=environ) as service:
        await asyncio.to_thread(service.wait_ready)
        yield service, folder
        assert await asyncio.to_thread(service.end_cleanly) == 0, service.stderr


@pytest.mark.parametrize("workers", [1, 2])
async def test_models_are_replaced_and_nobody_notices_but_by_the_answers(workers: int, tmp_path: Path) -> None:
    async with (
        serving_bundle(tmp_path, SONOTAG_WORKERS=str(workers)) as (service, folder),
        httpx.AsyncClient(timeout=60) as client,
    ):
        url = service.url
        assert await served_versions(url) == {"a"}
        async with asking(url) as statuses, Stream(url, RAW) as old:
            assert (await old.until("ready"))["model"]["sha256"][0] == "a"
            await old.send(TENTH)
            await old.until("tags")

            put_bundle(folder, "b")
            answer = await client.post(url + "/v1/models/reload")
            assert (answer.status_code, answer.json()) == (200, {"models": ["linear"], "workers_replaced": 0})
            assert await served_versions(url) == {"b"}
            async with Stream(url, RAW) as new:
                assert (await new.until("ready"))["model"]["sha256"][0] == "b"
            metrics = (await client.get(url + "/metrics")).text
            assert f'precision="fp32",provider="cpu",source_sha256="{"a" * 64}"}} 0.0' in metrics
            assert f'precision="fp32",provider="cpu",source_sha256="{"b" * 64}"}} 1.0' in metrics

            put_bundle(folder, "c", is_wrong=True)
            answer = await client.post(url + "/v1/models/reload")
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "reload_failed"
            assert "the old models serve on: model linear: " in answer.json()["error"]["message"]
            assert str(tmp_path) not in answer.text
            put_bundle(folder, "e", model=with_huge_tensor_when_run())
            answer = await client.post(url + "/v1/models/reload")
            assert answer.status_code == 409
            assert "SONOTAG_MODEL_MEMORY_BYTES" in answer.json()["error"]["message"]
            assert str(tmp_path) not in answer.text
            service.send_signal(signal.SIGHUP)
            for _ in ("c", "e", "the signal"):
                await asyncio.to_thread(service.wait_for_line, "the models are not reloaded")
            assert await served_versions(url) == {"b"}

            await old.send(TENTH * 3)
            await old.until("tags", 4)
            await old.send({"type": "stop"})
            told = await old.closed()
            assert (told.code, told.messages[-1]["duration"]) == (1000, 0.4), "a stream ends with what it began with"

            put_bundle(folder, "d")
            service.send_signal(signal.SIGHUP)
            await asyncio.to_thread(service.wait_for_line, "the models are reloaded")
            assert await served_versions(url) == {"d"}
        assert set(statuses) == {200}, service.stderr
        assert len(statuses) > 20
        # Those of "a" and "b".
        await asyncio.to_thread(closed_models, service, 2 * workers)


async def test_streams_that_stay_too_long_with_the_old_models_are_told_to_come_again(tmp_path: Path) -> None:
    async with (
        serving_bundle(tmp_path, SONOTAG_RELOAD_SECONDS="0") as (service, folder),
        httpx.AsyncClient(timeout=60) as client,
    ):
        async with Stream(service.url, RAW) as old:
            await old.until("ready")
            await old.send(TENTH)
            put_bundle(folder, "b")
            assert (await client.post(service.url + "/v1/models/reload")).status_code == 200
            told = await old.closed()
        assert told.code == 1001
        kinds = [message["type"] for message in told.messages if message["type"] != "event"]
        assert kinds == ["ready", "going_away", "tags"] or kinds == ["ready", "tags", "going_away"]
        await asyncio.to_thread(closed_models, service, 1)


async def test_a_worker_that_dies_while_models_are_replaced_leaves_all_with_the_old_or_all_with_the_new(tmp_path: Path) -> None:
    async with serving_bundle(tmp_path, SONOTAG_WORKERS="2") as (service, folder), httpx.AsyncClient(timeout=60) as client:
        put_bundle(folder, "b")
        os.kill(service.children()[0], signal.SIGKILL)
        async with asyncio.timeout(120):  # refused as long as a worker starts
            while True:
                answer = await client.post(service.url + "/v1/models/reload")
                if answer.status_code == 200:
                    break
                assert answer.json()["error"]["code"] in {"reload_failed", "not_ready"}
        assert await served_versions(service.url) == {"b"}


async def test_a_worker_that_does_not_say_that_it_changed_its_models_is_replaced(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "3", "SONOTAG_WATCHDOG_SECONDS": "3600"}
    async with serving_bundle(tmp_path, **environ) as (service, folder), httpx.AsyncClient(timeout=60) as client:
        asked, silent, last = service.children()

        def send(sig: signal.Signals, *pids: int) -> None:
            for pid in pids:
                os.kill(pid, sig)

        put_bundle(folder, "b")
        send(signal.SIGSTOP, silent, last)
        reloading = asyncio.create_task(client.post(service.url + "/v1/models/reload"))
        await asyncio.to_thread(service.wait_for_line, "the new models are ready")
        send(signal.SIGSTOP, asked)
        send(signal.SIGCONT, silent)
        await asyncio.to_thread(service.wait_for_line, "the new models are ready")
        async with httpx.AsyncClient(timeout=60) as other:
            # Answered by the only one that runs: what it had to say before, that it is prepared, is said.
            assert (await other.get(service.url + "/health/live")).status_code == 200
        send(signal.SIGSTOP, silent)
        send(signal.SIGCONT, asked, last)

        answer = await reloading
        assert (answer.status_code, answer.json()) == (200, {"models": ["linear"], "workers_replaced": 1})
        assert await served_versions(service.url) == {"b"}, "the silent one takes no connection any more"
        await asyncio.to_thread(service.wait_for_line, "a worker did not change its models and is replaced")
        await asyncio.to_thread(service.wait_for_line, rf"a worker died .*pid={silent} code=-9")
        for pid in (asked, last):  # so that only its successor answers
            send(signal.SIGSTOP, pid)
        assert await served_versions(service.url) == {"b"}
        send(signal.SIGCONT, asked, last)
        metrics = (await client.get(service.url + "/metrics")).text
        assert 'sonotag_workers_replaced_total{cause="reload"} 1.0' in metrics
        assert 'sonotag_workers_replaced_total{cause="died"} 0.0' in metrics
