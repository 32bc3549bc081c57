"""What one bad client costs the others: `python -m tests.load.fairness`.

Live streams, half of what the service takes, speak as they do every day, and jobs send batches, so that no lane of the model
is idle: a window that comes always finds them busy, with or without the bad client, and what is compared is who is let in
before it. For each kind of bad client (`tests.load.misdeeds`) the streams' p99 lag, from sending a window's last sample until
its result is read, is measured in turns, without it and with it (FAIRNESS_TURNS=3 each, FAIRNESS_SECONDS=15 long); the ratio
is that of the medians. FAIRNESS_ONLY picks the kinds whose names it is part of.

It fails if a ratio is above `MAX_RATIO` or cannot be had, if sound of the others was not scored or one of them was closed, and
if a bad client did not do its work.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.load.misdeeds import MISDEEDS, Counts
from tests.load.overload import Flood, probe, send_batches
from tests.load.soak import ROOT, speech_clients
from tests.load.streams import Seen, live_stream, percentile
from tests.load.traffic import Clients
from tests.support.process import running

REPORT = ROOT / "build" / "load" / "fairness.md"
MAX_RATIO = 1.2
NUM_JOBS = 4
"""That send batches. One leaves a lane idle now and then, and the lag beside it is no measure: on two cores sixteen clips at a
time made it 1.5 times as long beside one job, since they keep both lanes busy, and 0.93 times beside four."""
SETTLE_SECONDS = 2.0
TAKEN_SECONDS = 60.0


@dataclass
class Comparison:
    """What one kind of bad client did, and what it cost the others.

    Attributes:
        alone: The others' p99 lag in seconds without it, for each turn.
        beside: The same with it.
        done: What it said that it did, for each turn.
    """

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    done: list[Counts] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the medians; nan where there is nothing to be compared."""
        if not self.alone or not self.beside:
            return float("nan")
        return statistics.median(self.beside) / statistics.median(self.alone)

    def find_faults(self, name: str) -> list[str]:
        """Return what is wrong."""
        found = [] if self.ratio <= MAX_RATIO else [f"{name}: the others' p99 lag is {self.ratio:.2f} times as long"]
        return found + [f"{name}: {fault}" for done in self.done if (fault := MISDEEDS[name].find_fault(done))]


def find_faults(found: Mapping[str, Comparison], seen: Seen) -> list[str]:
    """Return all that is wrong."""
    faults = [fault for name, comparison in found.items() for fault in comparison.find_faults(name)]
    if not found:
        faults.append("nothing was compared")
    if seen.dropped_seconds:
        faults.append(f"{seen.dropped_seconds:.0f} s of sound of the others were not scored")
    if seen.refusals:
        faults.append(f"{len(seen.refusals)} times one of the others was refused")
    return faults + seen.failures[:5]


async def measure(seen: Seen, seconds: float) -> float:
    """Return the others' p99 lag over so many seconds, from soon on."""
    await asyncio.sleep(SETTLE_SECONDS)
    start = time.monotonic()
    await asyncio.sleep(seconds)
    return percentile(seen.waits_between(start, time.monotonic()), 99)


async def measure_beside(name: str, url: str, seen: Seen, seconds: float) -> tuple[float, Counts]:
    """Return the others' p99 lag beside a bad client, and what that did."""
    command = [sys.executable, "-m", "tests.load.misdeeds", name, url, str(SETTLE_SECONDS + seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdin.write(b"\n")
    lag = await measure(seen, seconds)
    done: Counts = json.loads(await process.stdout.readline())
    await process.wait()
    return lag, done


async def compare(clients: Clients, names: Sequence[str], seen: Seen, turns: int, seconds: float) -> dict[str, Comparison]:
    """Return for each misdeed the others' p99 lag without and with it."""
    found = {name: Comparison() for name in names}
    for name, comparison in found.items():
        for _ in range(turns):
            comparison.alone.append(await measure(seen, seconds))
            lag, done = await measure_beside(name, clients.url, seen, seconds)
            comparison.beside.append(lag)
            comparison.done.append(done)
        lags = [[f"{1000 * lag:.0f}" for lag in lags] for lags in (comparison.alone, comparison.beside)]
        print(name, *lags, *comparison.done, flush=True)
    return found


async def speak(clients: Clients, num_streams: int, seen: Seen) -> list[asyncio.Task[None]]:
    """Have the others begin, and return what they do."""
    until = time.monotonic() + 3600
    tasks = []
    for _ in range(num_streams):
        tasks.append(asyncio.create_task(live_stream(clients.url, clients.sound, clients.sample_rate, until, seen)))
        await asyncio.sleep(1 / num_streams)
    async with asyncio.timeout(TAKEN_SECONDS):
        while seen.num_open < num_streams:  # noqa: ASYNC110 - those that come first are taken in steps
            await asyncio.sleep(0.2)
    tasks += [asyncio.create_task(send_batches(clients, until, Flood())) for _ in range(NUM_JOBS)]
    await asyncio.sleep(6)
    seen.refusals.clear()
    return tasks


def table(found: Mapping[str, Comparison], num_streams: int) -> str:
    """Return what was found, in Markdown."""
    rows = []
    for name, comparison in found.items():
        alone, beside = (1000 * statistics.median(lags) for lags in (comparison.alone, comparison.beside))
        rows.append(f"| {name} | {alone:.0f} ms | {beside:.0f} ms | {comparison.ratio:.2f} |")
    return "\n".join([f"| p99 lag of {num_streams} streams beside | without | with | ratio |", "|---|---|---|---|", *rows])


async def main() -> int:
    """Run it; the exit code says whether nobody can disturb the others."""
    turns, seconds = int(os.environ.get("FAIRNESS_TURNS", "3")), float(os.environ.get("FAIRNESS_SECONDS", "15"))
    names = [name for name in MISDEEDS if os.environ.get("FAIRNESS_ONLY", "") in name]
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, running("service", "serve", cwd=Path(folder)) as process:
        clients = speech_clients(process.wait_ready())
        try:
            num_streams = max(2, round(0.4 * await probe(clients, 8)))
            others = await speak(clients, num_streams, seen)
            found = await compare(clients, names, seen, turns, seconds)
            faults = find_faults(found, seen)
            if ended := sum(task.done() for task in others):
                faults.append(f"{ended} of the others did not go on to the end")
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        finally:
            await clients.close()
    text = table(found, num_streams)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text + "\n")
    print(text, *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
