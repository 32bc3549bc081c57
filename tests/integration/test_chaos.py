"""Chaos in a short form, with a model that needs no weights; `make chaos` does thousands of deeds with a real one."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

from tests.chaos.chaos import Killer, find_faults
from tests.load.account import GOOD, LEFT, REFUSED, Account
from tests.load.traffic import RELOAD, Clients
from tests.support.process import running
from tests.support.rest import SPEECH, flac, heard, wav
from tests.support.streams import RAW
from tests.support.websocket import Stream


async def test_a_killed_worker_breaks_what_it_had_in_hand_and_nothing_else(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "FAKE_SECONDS": "0.002"}
    with running("tests.support.fake_service", environ=environ, cwd=tmp_path) as process:
        url = await asyncio.to_thread(process.wait_ready)
        samples = heard((SPEECH, 3.0))
        clients = Clients(url, (wav(samples), flac(samples)), samples.tobytes(), 16_000, "Speech", window=1.0, pace=0.0)
        del clients.deeds[RELOAD]  # the fake model has no folder to be read from again
        account = Account()
        killer = Killer(process, account, random.Random(0), workers=2)

        def is_done() -> bool:
            if account.sent > 40 and not account.kills:
                killer.kill()
            return account.sent >= 100

        async with AsyncExitStack() as stack:
            ports: dict[int, set[int]] = {}
            while len(ports) < 2:  # until both workers have a stream that stays
                stream = await stack.enter_async_context(Stream(url, RAW))
                worker = int((await stream.until("ready"))["resume_token"].partition(".")[0])
                ports.setdefault(worker, set()).add(stream.socket.local_address[1])
            await asyncio.gather(*(clients.work(account, is_done) for _ in range(8)))
        [kill] = account.kills
        assert ports.pop(kill.worker) <= kill.ports, "what it had in hand is known"
        assert not ports.popitem()[1] & kill.ports, "and is not the other's"
        await killer.until_ready()
        for kind, deed in (clients.deeds | {"healthy stream": clients.healthy_stream}).items():
            while (end := await account.enter(kind, deed)) == REFUSED:
                pass
            assert end in (GOOD, LEFT), account.lines()
        await clients.close()
        assert find_faults(process, clients, account) == []
