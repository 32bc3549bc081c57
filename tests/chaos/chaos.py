"""Thousands of requests and streams, good, bad, slow and abandoned, while workers are killed: `python -m tests.chaos.chaos`.

CHAOS_DEEDS=3000 says how many. Two workers; every few seconds one of them is killed with SIGKILL. At the end nothing may be
lost (the account is defined in `tests.load.traffic`; what a kill cut off is `broken`), the account adds up, and one healthy
clip and one healthy stream, which nobody disturbs, get the right answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.load.meters import children, metric
from tests.load.soak import speech_clients
from tests.load.traffic import GOOD, LOST, Account, Clients
from tests.support.process import ServiceProcess, running

NUM_CLIENTS = 24
KILL_EVERY_SECONDS = 8.0
READY_SECONDS = 120.0
END_SECONDS = 1800.0


async def until_ready(process: ServiceProcess, workers: int) -> None:
    """Wait until all workers are ready."""
    async with httpx.AsyncClient() as client, asyncio.timeout(READY_SECONDS):
        while True:
            try:
                if await metric(client, process.url, "sonotag_workers_ready") >= workers:
                    return
            except httpx.HTTPError:
                pass  # this one was with the worker that died
            await asyncio.sleep(0.2)


async def kill_workers(process: ServiceProcess, account: Account, clients: Clients, workers: int) -> None:
    """Kill one worker after the other, each time when all are ready, until cancelled."""
    while True:
        await asyncio.sleep(KILL_EVERY_SECONDS)
        await until_ready(process, workers)
        pid = clients.chance.choice(children(process.pid))
        os.kill(pid, signal.SIGKILL)
        account.kills.append(time.monotonic())
        print(f"killed {pid}", *account.lines(), flush=True)


async def wreak(process: ServiceProcess, clients: Clients, num_deeds: int, workers: int) -> list[str]:
    """Do so many deeds while workers die; return what is wrong."""
    account = Account()
    killing = asyncio.create_task(kill_workers(process, account, clients, workers))
    async with asyncio.timeout(END_SECONDS):
        await asyncio.gather(*(clients.work(account, lambda: account.sent >= num_deeds) for _ in range(NUM_CLIENTS)))
    killing.cancel()
    await asyncio.wait([killing])
    print(*account.lines(), *(f"{kind}: {end} {count}" for (kind, end), count in sorted(account.kinds.items())), sep="\n")
    faults = []
    if not killing.cancelled():
        faults.append(f"the killing ended: {killing.exception()}")
    if not account.kills:
        faults.append("no worker was killed")
    if account.ends[LOST] or not account.is_balanced:
        faults += account.lines()
    await until_ready(process, workers)
    healthy = Account()
    for kind in ("good clip", "good stream"):
        if await healthy.enter(kind, clients.deeds[kind]()) != GOOD:
            faults += [f"the last {kind} was not answered", *healthy.lines()]
    return faults


async def main() -> int:
    """Run it; the exit code says whether all is well."""
    num_deeds = int(os.environ.get("CHAOS_DEEDS", "3000"))
    environ = {"SONOTAG_WORKERS": "2"}
    with tempfile.TemporaryDirectory() as folder, running("service", "serve", environ=environ, cwd=Path(folder)) as process:
        clients = speech_clients(process.wait_ready(), pace=0.25)
        try:
            faults = await wreak(process, clients, num_deeds, workers=2)
        finally:
            await clients.close()
    print(*(faults or ["nothing was lost"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
