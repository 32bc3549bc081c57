"""Somebody sets the machine's clock while streams are open: nothing that lasts notices, what is dated does."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from service.access.keys import Limits
from tests.integration.test_resume import RAW, SECOND, break_off, last_seq, speak_a_second
from tests.support.clock_step import WallClock
from tests.support.keys import add_key, bearer
from tests.support.process import running
from tests.support.rest import SPEECH, heard, wav
from tests.support.websocket import Stream

CLIP = wav(heard((SPEECH, 1.0)))


async def until_set(client: httpx.AsyncClient, seconds: int) -> None:
    """Wait until the service itself dates its answers by the clock that was set."""
    async with asyncio.timeout(60):
        while True:
            date = parsedate_to_datetime((await client.get("/health/live")).headers["date"]).timestamp()
            if abs(date - time.time() - seconds) < 600:
                return


@pytest.mark.parametrize(("step", "token_status"), [(3600, 401), (-3600, 200)], ids=["an hour on", "an hour back"])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_clock_that_is_set_ends_no_stream_loses_none_and_frees_no_quota(
    tmp_path: Path, step: int, token_status: int, workers: str
) -> None:
    clock, keys = WallClock(tmp_path), tmp_path / "keys.json"
    mine, counted = bearer(add_key(keys, "mine")), bearer(add_key(keys, "counted", limits=Limits(requests_per_minute=1)))
    environ = {"SONOTAG_WORKERS": workers, "SONOTAG_API_KEYS_FILE": str(keys), **clock.environ}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        url = await asyncio.to_thread(service.wait_ready)
        async with (
            httpx.AsyncClient(base_url=url, timeout=60) as client,
            Stream(url, RAW, additional_headers=mine) as live,
            Stream(url, RAW, additional_headers=mine) as broken,
        ):
            await speak_a_second(live)
            ready = await speak_a_second(broken)
            break_off(broken)
            token = bearer((await client.post("/v1/tokens", headers=mine)).json()["token"])
            assert (await client.post("/v1/classify", content=CLIP, headers=token)).status_code == 200
            assert (await client.post("/v1/classify", content=CLIP, headers=counted)).status_code == 200

            clock.set(step)
            await until_set(client, step)
            refused = await client.post("/v1/classify", content=CLIP, headers=counted)
            assert refused.status_code == 429
            assert 0 < int(refused.headers["Retry-After"]) <= 60
            await live.send(SECOND)
            assert (await live.until("tags", 4))["end"] == 2.0
            resume = {**RAW, "resume_token": ready["resume_token"], "last_seq": last_seq(broken)}
            async with Stream(url, resume, additional_headers=mine) as again:
                assert (await again.until("ready"))["resumed_at"] == 1.0
                await again.send(SECOND)
                assert (await again.until("tags"))["end"] == 1.5
            answer = await client.post("/v1/classify", content=CLIP, headers=token)
            assert answer.status_code == token_status, "a token ends at a time of day, which several machines agree upon"
            await live.send({"type": "stop"})
            told = await live.closed()
            assert told.code == 1000
            assert not told.of_type("warning", "error")
        assert await asyncio.to_thread(service.end_cleanly) == exit_codes.OK
        assert "Traceback" not in service.stderr
