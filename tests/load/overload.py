"""A flood of three times what the machine can do, with admission and without: `python -m tests.load.overload`.

OVERLOAD_SECONDS=120 is how long each flood lasts. First the service shows what it can do: one-window clips a second, in
batches. Then live streams offer twice that, at a window a second each, and clips once that, and two jobs send batches besides.
Streams and clips come in an open loop: nobody waits for an answer before the next one comes. A stream that is refused comes
again when it is told to. Without admission means SONOTAG_MAX_STREAMS, SONOTAG_MAX_QUEUE_WINDOWS and SONOTAG_LIVE_SHARE so large
that nobody is ever refused.

The clients share the machine with the service: what they take is missing there, as in `sonotag bench`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.load.account import Route
from tests.load.meters import metric, usage
from tests.load.soak import ROOT, speech_clients
from tests.load.streams import Seen, live_stream, percentile
from tests.load.traffic import Clients
from tests.support.process import ServiceProcess, running

REPORT = ROOT / "build" / "load" / "overload.md"
LIMIT_SECONDS = 2.0
REFUSAL_SECONDS = 0.1
PROBE_SECONDS = 10.0
RECOVERY_SECONDS = 10.0
MAX_RATE = 200.0
MAX_SLOWER = 1.5
"""One clip alone, after the flood and before."""
MAX_GROWTH = 1.1
"""What is held in the second half of the flood, and in the first: what is flat may swing, and does not climb."""
MAX_MOST = 2.0
"""What is held in the flood, and before."""
MAX_LEFT = 1.25
"""What is held after the flood, and before."""
UNLIMITED = {"SONOTAG_MAX_STREAMS": "100000", "SONOTAG_MAX_QUEUE_WINDOWS": "100000", "SONOTAG_LIVE_SHARE": "1000"}


@dataclass(frozen=True)
class Held:
    """What of something was held, in bytes.

    Attributes:
        before: Before the flood.
        during: Each second of it, in order.
        after: Ten seconds later.
    """

    before: int = 0
    during: Sequence[int] = ()
    after: int = 0

    @property
    def most(self) -> int:
        """During the flood."""
        return max(self.during, default=0)

    @property
    def growth(self) -> float:
        """The most of the second half of the flood in terms of that of the first; nan where there is none."""
        half = len(self.during) // 2
        return max(self.during[half:]) / max(self.during[:half]) if half else float("nan")

    @property
    def faults(self) -> list[str]:
        """What is not flat."""
        if not self.before or not self.after or not self.during:
            return [f"nothing was held: {self}"]
        found = []
        if not self.growth <= MAX_GROWTH:
            found.append(f"memory grew on: in the second half it was {self.growth:.2f} times what it was in the first")
        if self.most > MAX_MOST * self.before:
            found.append(f"memory rose to {self.most / self.before:.2f} times what it was before")
        if self.after > MAX_LEFT * self.before:
            found.append(f"ten seconds later memory was {self.after / self.before:.2f} times what it was before")
        return found


@dataclass
class Flood:
    """What one flood showed."""

    capacity: float = 0.0
    offered_streams: int = 0
    seen: Seen = field(default_factory=Seen)
    steady_lags: list[float] = field(default_factory=list)
    clips: Counter[int] = field(default_factory=Counter)
    clip_refusals: list[float] = field(default_factory=list)
    batch_clips: int = 0
    failures: list[str] = field(default_factory=list)
    memory: Held = field(default_factory=Held)
    clip_seconds: tuple[float, float] = (0.0, 0.0)
    left_over: tuple[float, float] = (0.0, 0.0)

    @property
    def faults(self) -> list[str]:
        """What does not keep the promise; for the flood with admission. A figure that is not there keeps none."""
        found = [*self.seen.failures[:5], *self.failures[:5]]
        if not percentile(self.steady_lags, 99) < LIMIT_SECONDS:
            found.append("the lag of the streams that were taken passed the limit")
        if self.seen.dropped_seconds:
            found.append(f"{self.seen.dropped_seconds:.0f} s of sound of streams that were taken were not scored")
        for what, refusals in {"upgrades": self.seen.refusals, "clips": self.clip_refusals}.items():
            if not percentile(refusals, 99) < REFUSAL_SECONDS:
                found.append(f"{what} were refused slowly, or not at all: {len(refusals)}")
        if unexpected := {status: count for status, count in self.clips.items() if status not in (200, 503)}:
            found.append(f"clips were answered with {unexpected} (0: not at all)")
        if not self.batch_clips:
            found.append("bulk stood still")
        if any(self.left_over):
            found.append(f"ten seconds later {self.left_over} windows and streams were still there")
        before, after = self.clip_seconds
        if not 0 < after <= MAX_SLOWER * before:
            found.append(f"one clip took {1000 * before:.0f} ms before and {1000 * after:.0f} ms after")
        return found + self.memory.faults


async def probe(clients: Clients, seconds: float) -> float:
    """Return how many one-window clips a second the service does: batches, so that it always has something to do."""
    counted = Flood()
    began = time.monotonic()
    await asyncio.gather(*(send_batches(clients, began + seconds, counted) for _ in range(3)))
    return counted.batch_clips / (time.monotonic() - began)


async def send_clips(clients: Clients, per_second: float, until: float, flood: Flood) -> None:
    """Send clips at a steady rate, whatever becomes of them."""
    tasks: set[asyncio.Task[None]] = set()

    async def send() -> None:
        began = time.monotonic()
        try:
            response = await clients.http.post(f"{clients.url}/v1/classify", content=clients.clip)
        except httpx.HTTPError:
            flood.clips[0] += 1
            return
        flood.clips[response.status_code] += 1
        if response.status_code == 503:
            flood.clip_refusals.append(time.monotonic() - began)

    while time.monotonic() < until:
        task = asyncio.create_task(send())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / per_second)
    await asyncio.gather(*tasks)


async def send_batches(clients: Clients, until: float, flood: Flood) -> None:
    """Send one batch after the other, as a job does."""
    while time.monotonic() < until:
        files = [("file", clients.clip)] * 4
        try:
            response = await clients.http.post(f"{clients.url}/v1/classify/batch", files=files)
        except httpx.HTTPError as error:
            flood.failures.append(f"a batch: {type(error).__name__}: {error}")
            return
        if response.status_code == 200:
            flood.batch_clips += sum("error" not in result for result in response.json()["results"])
        elif response.status_code != 503:
            flood.failures.append(f"a batch was answered with {response.status_code}")
            return
        else:
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))


async def watch_memory(process: ServiceProcess, until: float) -> list[int]:
    """Return how much memory was held, each second."""
    held = []
    while time.monotonic() < until:
        held.append(usage(process.pid).memory)
        await asyncio.sleep(1)
    return held


async def time_clips(clients: Clients) -> float:
    """Return the median of what a clip takes while nobody else asks."""
    took = []
    for _ in range(9):
        began = time.monotonic()
        await clients.good_clip(Route())
        took.append(time.monotonic() - began)
    return percentile(took, 50)


async def flood_service(process: ServiceProcess, clients: Clients, seconds: float, capacity: float | None) -> Flood:
    """Flood a service and look at it before, meanwhile and after."""
    flood = Flood()
    flood.capacity = await probe(clients, PROBE_SECONDS) if capacity is None else capacity
    before = (usage(process.pid).memory, await time_clips(clients))
    rate = min(flood.capacity, MAX_RATE)
    flood.offered_streams = round(2 * rate)
    start = time.monotonic()
    until = start + seconds
    jobs = [asyncio.create_task(send_clips(clients, rate, until, flood))]
    jobs += [asyncio.create_task(send_batches(clients, until, flood)) for _ in range(2)]
    memory = asyncio.create_task(watch_memory(process, until))
    for _ in range(flood.offered_streams):  # all within two seconds
        jobs.append(asyncio.create_task(live_stream(clients.url, clients.sound, clients.sample_rate, until, flood.seen)))
        await asyncio.sleep(2 / flood.offered_streams)
    done, pending = await asyncio.wait(jobs, timeout=seconds + 90)
    for job in pending:
        job.cancel()
    flood.failures += [f"a client failed: {error!r}" for job in done if (error := job.exception())]
    flood.failures += [f"{len(pending)} clients had no end"] if pending else []
    await asyncio.gather(*pending, return_exceptions=True)
    flood.steady_lags = flood.seen.lags_between(start, until)
    await asyncio.sleep(RECOVERY_SECONDS)
    depth = await metric(clients.http, clients.url, "sonotag_queue_depth_windows")
    flood.left_over = (depth, await metric(clients.http, clients.url, "sonotag_streams_open"))
    flood.clip_seconds = (before[1], await time_clips(clients))
    flood.memory = Held(before[0], await memory, usage(process.pid).memory)
    return flood


def table(floods: dict[str, Flood], seconds: float) -> str:
    """Return the floods side by side, in Markdown."""

    def row(name: str, show: object) -> str:
        return f"| {name} | " + " | ".join(show(flood) for flood in floods.values()) + " |"  # type: ignore[operator]

    def three(values: list[float]) -> str:
        if not values:
            return "none"
        return ", ".join(f"{1000 * percentile(values, share):.0f}" for share in (50, 99, 100)) + " ms"

    def show_held(held: Held) -> str:
        return f"{held.before / 1e6:.0f}, {held.most / 1e6:.0f}, {held.after / 1e6:.0f} MB"

    flood = next(iter(floods.values()))
    head = f"{flood.offered_streams} streams and {flood.capacity:.0f} clips a second, {seconds:.0f} s"
    return "\n".join(
        [
            f"| {head} | " + " | ".join(floods) + " |",
            "|---|" + "---|" * len(floods),
            row("streams taken", lambda f: str(f.seen.num_open)),
            row("their lag: median, p99, most", lambda f: three(f.steady_lags)),
            row("their windows answered in time", lambda f: str(len(f.steady_lags))),
            row("their sound dropped", lambda f: f"{f.seen.dropped_seconds:.0f} s"),
            row("upgrades refused", lambda f: str(len(f.seen.refusals))),
            row("a refused upgrade: median, p99, most", lambda f: three(f.seen.refusals)),
            row("clips answered, refused", lambda f: f"{f.clips[200]}, {f.clips[503]}"),
            row("a refused clip: median, p99, most", lambda f: three(f.clip_refusals)),
            row("clips of batches answered", lambda f: str(f.batch_clips)),
            row("memory before, most, after", lambda f: show_held(f.memory)),
            row("windows, streams left ten seconds later", lambda f: "{:.0f}, {:.0f}".format(*f.left_over)),
            row("one clip alone, before and after", lambda f: "{:.0f}, {:.0f} ms".format(*(1000 * s for s in f.clip_seconds))),
        ]
    )


async def main() -> int:
    """Run both floods; the exit code says whether admission keeps its promise."""
    seconds = float(os.environ.get("OVERLOAD_SECONDS", "120"))
    floods: dict[str, Flood] = {}
    for name, environ in {"with admission": {}, "without": UNLIMITED}.items():
        with tempfile.TemporaryDirectory() as folder, running("service", "serve", environ=environ, cwd=Path(folder)) as process:
            clients = speech_clients(process.wait_ready())
            capacity = next(iter(floods.values())).capacity if floods else None
            try:
                floods[name] = await flood_service(process, clients, seconds, capacity)
            finally:
                await clients.close()
    text = table(floods, seconds)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text + "\n")
    faults = floods["with admission"].faults
    print(text, *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
