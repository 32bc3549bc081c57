"""Half an hour of clients who come and go, and what is left of it: `python -m tests.load.soak`, SOAK_MINUTES=30.

The service is idle when what is compared is measured: after the first five minutes (a third of a shorter soak), in which caches
and the allocator fill, and which end with more clips at once than are taken, so that every pool has all its threads; and at the
end. Each is the median of five looks, each after the models were loaded anew: what the allocator keeps depends on how long ago
that was, and swings from one time to the next by as much as may be added. It fails if memory grew by 2 % or more, if there are
more descriptors or threads, if something was lost (see `tests.load.account`), if a kind of deed was never answered, or if the
log has a warning.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median_low

import httpx

from service.decoders.pool import TRIM_SECONDS
from tests.load.account import Account
from tests.load.meters import Usage, metric, usage
from tests.load.traffic import RELOAD, Clients
from tests.support.process import ServiceProcess, running

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "build" / "load" / "soak.md"
MAX_GROWTH = 0.02
WARM_SECONDS = 300.0
RESUME_SECONDS = 5.0
QUIET_SECONDS = max(RESUME_SECONDS + 3, 2 * TRIM_SECONDS + 1)
"""Until streams whose clients did not come back are forgotten, what ends behind them has ended, and idle decoders are gone."""
NUM_LOOKS = 5
NUM_AT_ONCE = 64
"""Clips that fill the pools: more than are decoded and wait together."""
NUM_BURSTS = 5
NUM_CLIENTS = 8
MAX_STREAMS = 4
"""Half of the clients', so that upgrades are refused too."""


@dataclass(frozen=True)
class SoakResult:
    """What was held before and after, idle.

    Attributes:
        minutes: How long it was.
        before: Held when pools and caches were full.
        after: Held at the end.
        account: How the deeds ended.
        kinds: The deeds that there are.
        warnings: Lines of the log that should not be there.
    """

    minutes: float
    before: Usage
    after: Usage
    account: Account
    kinds: list[str]
    warnings: list[str]

    @property
    def growth(self) -> float:
        """Of the memory; nan where there was none."""
        return self.after.memory / self.before.memory - 1 if self.before.memory else float("nan")

    @property
    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = list(self.warnings)
        if not self.before.memory or not self.after.memory:
            return [*found, f"nothing was held: {self.before}, {self.after}; is the service still there?"]
        if self.growth >= MAX_GROWTH:
            found.append(f"memory grew by {self.growth:.1%}")
        if self.after.descriptors > self.before.descriptors:
            found.append(f"{self.before.descriptors} descriptors became {self.after.descriptors}")
        if self.after.threads > self.before.threads:
            found.append(f"{self.before.threads} threads became {self.after.threads}")
        found += self.account.faults
        found += [f"no {kind} was answered" for kind in self.account.missing(self.kinds)]
        return found

    def report(self) -> str:
        """Return the result as Markdown."""
        rows = [
            f"| memory of its own, MB | {self.before.memory / 1e6:.1f} | {self.after.memory / 1e6:.1f} ({self.growth:+.2%}) |",
            f"| descriptors | {self.before.descriptors} | {self.after.descriptors} |",
            f"| threads | {self.before.threads} | {self.after.threads} |",
        ]
        faults = [f"- {fault}" for fault in self.faults] or ["Nothing to complain of."]
        lines = [f"# Soak of {self.minutes:g} minutes", "", "| idle | before | after |", "|---|---|---|", *rows, ""]
        return "\n".join([*lines, *self.account.lines(), *self.account.table(), "", *faults, ""])


async def measure_idle(process: ServiceProcess) -> Usage:
    """Wait until nothing is open, and a little longer for what ends behind it; then measure."""
    async with httpx.AsyncClient() as client:
        while await metric(client, process.url, "sonotag_streams_open"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await asyncio.sleep(QUIET_SECONDS)
    return usage(process.pid)


async def measure_often(process: ServiceProcess, clients: Clients, account: Account) -> Usage:
    """Return the median of several measurements, each behind models that were loaded anew."""
    looks: list[Usage] = []
    for _ in range(NUM_LOOKS):
        await account.enter(RELOAD, clients.reload)
        looks.append(await measure_idle(process))
        print(looks[-1], flush=True)
    return Usage(*(median_low(numbers) for numbers in zip(*map(astuple, looks), strict=True)))


async def soak(process: ServiceProcess, clients: Clients, minutes: float) -> SoakResult:
    """Let clients come and go, twice, with a pause and a measurement after each."""
    account = Account()
    total = minutes * 60
    warm = min(WARM_SECONDS, total / 3)
    measured: list[Usage] = []
    for seconds, num_bursts in ((warm, NUM_BURSTS), (total - warm, 0)):
        end = time.monotonic() + seconds
        await asyncio.gather(*(clients.work(account, lambda end=end: time.monotonic() >= end) for _ in range(NUM_CLIENTS)))
        for _ in range(num_bursts):
            await asyncio.gather(*(account.enter("good clip", clients.good_clip) for _ in range(NUM_AT_ONCE)))
        measured.append(await measure_often(process, clients, account))
        print(f"after {seconds:.0f} s: {measured[-1]}", *account.lines(), sep="\n", flush=True)
    warnings = [line.strip() for line in process.errors if re.search(r"WARNING|ERROR|CRITICAL|Traceback", line)]
    return SoakResult(minutes, *measured, account, [*clients.deeds], warnings)


def speech_clients(url: str, *, pace: float = 1.0) -> Clients:
    """Return clients who speak English."""
    import soundfile

    path = ROOT / "examples" / "speech.wav"
    samples, rate = soundfile.read(path, dtype="int16")
    window = httpx.get(f"{url}/v1/models").json()["models"][0]["window_seconds"]
    flac = io.BytesIO()
    soundfile.write(flac, samples, rate, format="FLAC")
    return Clients(url, (path.read_bytes(), flac.getvalue()), samples.tobytes(), rate, "Speech", window, pace=pace)


async def main() -> int:
    """Soak a real service; the exit code says whether all is well."""
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    environ = {"SONOTAG_MAX_STREAMS": str(MAX_STREAMS), "SONOTAG_RESUME_SECONDS": str(RESUME_SECONDS)}
    with tempfile.TemporaryDirectory() as folder, running("service", "serve", environ=environ, cwd=Path(folder)) as process:
        clients = speech_clients(process.wait_ready())
        try:
            result = await soak(process, clients, minutes)
        finally:
            await clients.close()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(result.report())
    print(result.report())
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
