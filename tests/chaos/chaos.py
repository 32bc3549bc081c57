"""Thousands of requests and streams, good, bad, slow and abandoned, while workers are killed: `python -m tests.chaos.chaos`.

CHAOS_DEEDS=3000 says how many. Two workers; every few seconds one of them is killed with SIGKILL. At the end nothing may be
lost (the account is defined in `tests.load.account`; what the killed worker had in hand is `broken`, and nothing else), every
kind of deed was answered, the account adds up, no worker died that was not killed, and one healthy clip and one healthy stream,
which nobody disturbs, get the right answer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.load.account import GOOD, Account, Kill
from tests.load.meters import children, client_ports, metric, stop
from tests.load.soak import speech_clients
from tests.load.traffic import Clients
from tests.support.process import ServiceProcess, running

NUM_CLIENTS = 24
KILL_EVERY_SECONDS = 8.0
READY_SECONDS = 120.0
END_SECONDS = 1800.0


def deaths(process: ServiceProcess) -> list[str]:
    """Return what the supervisor has said of workers that died."""
    return [line.strip() for line in process.errors if "a worker died" in line]


@dataclass
class Killer:
    """Kills one worker after the other, each time when all are ready.

    Args:
        process: The service; all its workers are ready.
        account: Where the kills are entered.
        chance: Picks the worker.
        workers: How many there are.
        every_seconds: How long each time to wait before.
    """

    process: ServiceProcess
    account: Account
    chance: random.Random
    workers: int
    every_seconds: float = KILL_EVERY_SECONDS

    def __post_init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._note_workers()

    def _note_workers(self) -> None:
        """Number the workers as the supervisor does: in the order in which it starts them."""
        for pid in children(self.process.pid):
            self._numbers.setdefault(pid, len(self._numbers) + 1)

    def kill(self) -> int:
        """Kill a worker and return its process id."""
        self._note_workers()
        pid = self.chance.choice(children(self.process.pid))
        stop(pid)  # what it has in hand when it dies is what it has now
        self.account.kills.append(Kill(time.monotonic(), self._numbers[pid], client_ports(pid)))
        os.kill(pid, signal.SIGKILL)
        return pid

    async def until_ready(self) -> None:
        """Wait until all workers are ready, those in the places of the dead included."""
        async with httpx.AsyncClient(headers={"Connection": "close"}) as client, asyncio.timeout(READY_SECONDS):
            while True:
                with suppress(httpx.HTTPError):  # this one was with the worker that died
                    ready = await metric(client, self.process.url, "sonotag_workers_ready")
                    if ready >= self.workers and len(deaths(self.process)) >= len(self.account.kills):
                        return
                await asyncio.sleep(0.2)

    async def go_on(self) -> None:
        """Kill until cancelled."""
        while True:
            await asyncio.sleep(self.every_seconds)
            await self.until_ready()
            print(f"killed {self.kill()}", *self.account.lines(), flush=True)


def find_faults(process: ServiceProcess, clients: Clients, account: Account) -> list[str]:
    """Return what is wrong once all deeds have ended."""
    faults = [*account.faults, *(f"no {kind} was answered" for kind in account.missing([*clients.deeds]))]
    if not account.kills:
        faults.append("no worker was killed")
    if len(died := deaths(process)) != len(account.kills):
        faults += [f"{len(account.kills)} workers were killed, {len(died)} died:", *died]
    return faults


async def wreak(process: ServiceProcess, clients: Clients, num_deeds: int, killer: Killer) -> list[str]:
    """Do so many deeds while workers die; return what is wrong."""
    account = killer.account
    killing = asyncio.create_task(killer.go_on())
    async with asyncio.timeout(END_SECONDS):
        await asyncio.gather(*(clients.work(account, lambda: account.sent >= num_deeds) for _ in range(NUM_CLIENTS)))
    killing.cancel()
    await asyncio.wait([killing])
    print(*account.lines(), *account.table(), sep="\n")
    await killer.until_ready()
    faults = find_faults(process, clients, account)
    if not killing.cancelled():
        faults.append(f"the killing ended: {killing.exception()}")
    healthy = Account()
    for kind, deed in {"clip": clients.good_clip, "stream": clients.healthy_stream}.items():
        if await healthy.enter(kind, deed) != GOOD:
            faults += [f"the last {kind} was not answered", *healthy.lines()]
    return faults


async def main() -> int:
    """Run it; the exit code says whether all is well."""
    num_deeds = int(os.environ.get("CHAOS_DEEDS", "3000"))
    environ = {"SONOTAG_WORKERS": "2"}
    with tempfile.TemporaryDirectory() as folder, running("service", "serve", environ=environ, cwd=Path(folder)) as process:
        clients = speech_clients(process.wait_ready(), pace=0.25)
        try:
            killer = Killer(process, Account(), clients.chance, workers=2)
            faults = await wreak(process, clients, num_deeds, killer)
        finally:
            await clients.close()
    print(*(faults or ["nothing was lost"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
