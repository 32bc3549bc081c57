"""The table of goals of a GPU, from what the parts wrote; what none of them measured says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.goals import UNMEASURED, Goal, cost_goals, memory_goal
from bench.gpu.parts import COST, FLOAT8, RACE, STREAMS, SUBJECT, THROUGHPUT
from bench.gpu.settings import AS_CALLED, EAGER, OURS

GPU_STREAMS: Final = 1000
ON_CPU: Final = "`make bench` measures it, on a CPU"
NOT_REAL: Final = "this was {size} on {device}, which tries the steps"


def read_rows(folder: Path, reasons: Mapping[str, str]) -> list[Goal]:
    """Return every row.

    Args:
        folder: With the parts' files.
        reasons: Of the parts that wrote none, by name, why not.
    """
    found = Measured(folder, reasons)
    return [
        _against(found, "base, batch 32, waveform in, against transformers eager fp16 without features", 32, EAGER, 1.12, 1.35),
        _against(found, "the same, batch 1", 1, EAGER, 6),
        _against(found, "against transformers as called, features included, batch 32", 32, AS_CALLED, 10),
        _fraction(found),
        _throughput(found),
        _unmeasured("service throughput over bare runner throughput, CPU", "0.90", ON_CPU),
        _streams(found),
        _unmeasured("tiny on two CPU cores, waveform in, against transformers without features", "2 times", ON_CPU),
        _unmeasured("live streams of the default at hop 1 s on two cores, load generator included", "24", ON_CPU),
        _memory(found, "idle", 0.2),
        _memory(found, "live", 1.0),
        _cost(found),
        _float8(found),
    ]


class Measured:
    """What the parts wrote.

    Args:
        folder: With their files.
        reasons: Why others wrote none.
    """

    def __init__(self, folder: Path, reasons: Mapping[str, str]) -> None:
        self._reasons = reasons
        self.documents: dict[str, Any] = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}

    def obstacle(self, part: str) -> str | None:
        """Return why a part says nothing about a GPU, or None where it does."""
        if part not in self.documents:
            return self._reasons.get(part, "it was not run")
        subject = self.documents.get(SUBJECT)
        if subject is None:
            return self._reasons.get(SUBJECT, "there was no model")
        if (subject["device"], subject["size"]) != ("cuda", "base"):
            return NOT_REAL.format(**subject)
        return None


def _unmeasured(name: str, goal: str, reason: str) -> Goal:
    return Goal(name, goal, f"{UNMEASURED} ({reason})", None)


def _against(found: Measured, name: str, rows: int, peer: str, limit: float, stretch: float | None = None) -> Goal:
    goal = f"{limit:g} times" + (f"; stretch, with 8-bit products, {stretch:g}" if stretch else "")
    if obstacle := found.obstacle(RACE):
        return _unmeasured(name, goal, obstacle)
    ours, theirs = (_fastest(found.documents[RACE], rows, who) for who in (OURS, peer))
    if ours is None or theirs is None:
        return _unmeasured(name, goal, f"no right answer of {OURS if ours is None else peer} at batch {rows}")
    ratio = theirs[1] / ours[1]
    told = f"{ratio:.2f} times ({ours[0]}, {rows / ours[1]:,.0f} windows/s; {theirs[0]}, {rows / theirs[1]:,.0f})"
    return Goal(name, goal, told, ratio >= limit)


def _fraction(found: Measured) -> Goal:
    name, goal = "fraction of a large fp16 matrix product's rate, batch 32", "0.55; stretch, with 8-bit products, 0.66"
    if obstacle := found.obstacle(RACE):
        return _unmeasured(name, goal, obstacle)
    document = found.documents[RACE]
    ours = _fastest(document, 32, OURS)
    if ours is None:
        return _unmeasured(name, goal, f"no right answer of {OURS} at batch 32")
    race = next(race for race in document["races"] if race["times"][0]["batch"] == 32)
    rate, product = document["work"]["exported"] * 32 / ours[1], race["product"]["median"]
    told = f"{rate / product:.2f} ({rate / 1e12:.0f} of {product / 1e12:.0f} TFLOP/s)"
    return Goal(name, goal, told, rate / product >= 0.55)


def _fastest(document: Any, rows: int, who: str) -> tuple[str, float] | None:
    """Return the fastest of a family that answers right, and its seconds for a batch."""
    times = [time for race in document["races"] for time in race["times"] if time["batch"] == rows]
    right = [
        (time["name"], time["seconds"]["median"])
        for time in times
        if time["name"].startswith(who)
        and time["seconds"] is not None
        # A faster wrong answer does not count. What it is compared with is transformers' own.
        and (who != OURS or time["difference"] <= document["tolerance"])
    ]
    return min(right, key=lambda one: one[1], default=None)


def _throughput(found: Measured) -> Goal:
    name, goal = "service throughput over bare runner throughput, GPU", "0.90"
    parts = [part for part in found.documents if part.startswith(THROUGHPUT)]
    if not parts:
        reasons = [found.obstacle(f"{THROUGHPUT}-1")]
        return _unmeasured(name, goal, reasons[0] or "it was not run")
    if obstacle := found.obstacle(parts[0]):
        return _unmeasured(name, goal, obstacle)
    documents = [found.documents[part] for part in parts]
    ranked = sorted(((document["served"][0], document) for document in documents), key=lambda pair: -pair[0]["ratio"])
    told = "; ".join(
        f"{served['ratio']:.2f} with {document['course']['workers']} worker(s) "
        f"({served['windows_per_second']:,.0f} of {document['bare']:,.0f} windows/s, clips: {served['clips']})"
        for served, document in ranked
    )
    return Goal(name, goal, told, ranked[0][0]["ratio"] >= 0.9)


def _streams(found: Measured) -> Goal:
    name = "live streams of base at hop 1 s, load generator included, p99 lag under 500 ms, none dropped"
    goal = f"{GPU_STREAMS:,} on one H100 and 16 cores"
    if obstacle := found.obstacle(STREAMS):
        return _unmeasured(name, goal, obstacle)
    document = found.documents[STREAMS]
    if not document["streams"]:
        return _unmeasured(name, goal, "no time was left for a stage")
    largest = document["largest"] or 0
    more = "" if document["is_limit"] or not largest else " or more"
    lags = [stage["client_lag"]["p99"] for stage in document["streams"] if stage["streams"] == largest]
    lag = f", p99 {1000 * lags[0]:.0f} ms" if lags else ""
    told = f"{largest:,}{more} on {document['cores']} cores, {document['workers']} worker(s){lag}"
    return Goal(name, goal, told, largest >= GPU_STREAMS)


def _memory(found: Measured, kind: str, limit: float) -> Goal:
    value = None if STREAMS not in found.documents else found.documents[STREAMS]["memory"][f"{kind}_stream"]
    goal = memory_goal(f"memory of an {kind} stream" if kind == "idle" else f"memory of a {kind} stream", value, limit)
    obstacle = found.obstacle(STREAMS) or ("no stage says it" if value is None else None)
    return _unmeasured(goal.name, goal.goal, obstacle) if obstacle else goal


def _cost(found: Measured) -> Goal:
    goal, _ = cost_goals(found.documents.get(COST))
    if goal.measured == UNMEASURED:
        return _unmeasured(goal.name, goal.goal, found.obstacle(COST) or "the machine did other work")
    return goal


def _float8(found: Measured) -> Goal:
    name, goal = "the MLP's products in 8 bits (GemmFloat8) over float16, a trial", "faster"
    if obstacle := found.obstacle(FLOAT8):
        return _unmeasured(name, goal, obstacle)
    document = found.documents[FLOAT8]
    rates = " of ".join(f"{document[kind]['median']:,.0f}" for kind in ("float8", "half"))
    told = f"{document['ratio']:.2f} times ({rates} TFLOP/s; off by {document['float8_error']:.1e})"
    return Goal(name, goal, told, document["ratio"] > 1)
