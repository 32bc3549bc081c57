"""What is to be reached on a CPU, beside what one run of `make bench` measured. Rows have the form of those of `bench.gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

UNMEASURED: Final = "unmeasured"
FEW, MANY = 10, 1000
"""Streams, between which one more is to cost the same."""
MODEL, SERVICE, THROUGHPUT, COST, DECODING = (
    "model.json",
    "service.json",
    "throughput.json",
    "stream-cost.json",
    "decoding.json",
)
FILES: Final = (MODEL, SERVICE, THROUGHPUT, COST, DECODING)
"""What the parts of a run write, and what this page reads."""
LARGEST_GROWTH: Final = 1.10


class Goal(NamedTuple):
    """One row.

    Attributes:
        name: What it is about.
        goal: What is to be reached.
        measured: What was, with how far it is from the goal where it is missed; `UNMEASURED` where nothing was.
        is_reached: None where nothing was measured.
    """

    name: str
    goal: str
    measured: str
    is_reached: bool | None


def read_goals(folder: Path) -> list[Goal]:
    """Return every row, from the files of a run; one that is missing leaves its rows unmeasured."""
    documents: dict[str, Any] = {name: _read(folder / name) for name in FILES}
    service = documents[SERVICE]
    memory = service["memory"] if service else {}
    return [
        _against_transformers(documents[MODEL]),
        *_throughput(documents[THROUGHPUT]),
        _streams(service),
        memory_goal("memory of an idle stream", memory.get("idle_stream"), 0.2),
        memory_goal("memory of a live stream", memory.get("live_stream"), 1.0),
        *cost_goals(documents[COST]),
        _decoding(documents[DECODING]),
    ]


def to_markdown(goals: list[Goal]) -> str:
    """Return the table."""
    marks = {True: "reached", False: "missed", None: ""}
    lines = ["| goal | to reach | measured | |", "|---|---|---|---|"]
    lines += [f"| {goal.name} | {goal.goal} | {goal.measured} | {marks[goal.is_reached]} |" for goal in goals]
    return "\n".join(lines) + "\n"


def _against_transformers(document: Any) -> Goal:
    name = "the default model against transformers in float32, features not counted, on all cores"
    ratios: dict[str, dict[int, float]] = {}
    for race in document["races"] if document else ():
        seconds = {time["name"]: time["seconds"]["median"] for time in race["times"] if time["seconds"]}
        batch = race["times"][0]["batch"]
        theirs = seconds.get("transformers eager fp32")
        for precision in ("int8", "fp32"):
            ours = seconds.get(f"Sonotag {precision}")
            if ours and theirs:
                ratios.setdefault(precision, {})[batch] = theirs / ours
    if not ratios or document["kind"] != "cpu":
        return Goal(name, "2 times", UNMEASURED, None)
    told = "; ".join(
        f"{precision}: " + ", ".join(f"{ratio:.2f} times (batch {batch})" for batch, ratio in found.items())
        for precision, found in ratios.items()
    )
    served = next(iter(ratios.values()))
    return Goal(name, "2 times", told, min(served.values()) >= 2)


def _throughput(document: Any) -> list[Goal]:
    name = "service throughput over bare runner throughput"
    if not document:
        return [Goal(name, "0.90", UNMEASURED, None)]
    return [
        Goal(
            f"{name}, clips: {served['clips']}",
            "0.90",
            f"{served['ratio']:.2f} ({served['windows_per_second']:.1f} of {document['bare']:.1f} windows/s)",
            served["ratio"] >= 0.9,
        )
        for served in document["served"]
    ]


def _streams(document: Any) -> Goal:
    name = "live streams of the default at hop 1 s, load generator included, p99 lag under 500 ms, none dropped"
    is_asked_for = (
        document
        and (document["plan"]["hop_seconds"], document["plan"]["slo_seconds"]) == (1, 0.5)
        and document["model"]["provider"] == "cpu"
    )
    if not is_asked_for:
        return Goal(name, "24 on two cores", UNMEASURED, None)
    largest = document["largest"] or 0
    more = "" if document["is_limit"] or not largest else " or more"
    return Goal(name, "24 on two cores", f"{largest}{more} on {document['cores']} cores", largest >= 24)


def memory_goal(name: str, value: int | None, limit: float) -> Goal:
    """Return the row of what a stream takes, in bytes, of a limit in MB."""
    if value is None:
        return Goal(name, f"at most {limit:g} MB", UNMEASURED, None)
    return Goal(name, f"at most {limit:g} MB", f"{value / 1e6:.3f} MB", value <= limit * 1e6)


def cost_goals(document: Any) -> tuple[Goal, Goal]:
    """Return the rows of what `bench.stream_cost` wrote: of one more stream, and of each."""
    growth = f"cost of one more stream, from {FEW} to {MANY:,}"
    each = "processor time of a live stream besides the model, 48 kHz"
    flat, little = "at most 10 % more", "under 4 ms for each second of sound"
    told = UNMEASURED
    if document and not document["is_whole"]:
        reasons = {reason for reasons in document["broken"].values() for reason in reasons}
        told = f"{UNMEASURED}: {', '.join(sorted(reasons))}"
    if not document or not document["is_whole"] or document["growth"] is None:
        return Goal(growth, flat, told, None), Goal(each, little, told, None)
    milliseconds = f"{document['growth']:.2f} times ({document['more_of_few']:.2f} to {document['more_of_many']:.2f} ms)"
    return (
        Goal(growth, flat, milliseconds, document["growth"] <= LARGEST_GROWTH),
        Goal(each, little, f"{document['streams']:.2f} ms", document["streams"] < 4),
    )


def _decoding(document: Any) -> Goal:
    name = "what decoder processes add to a five-second clip, median of the slowest format"
    if not document:
        return Goal(name, "under 5 ms", UNMEASURED, None)
    worst = max(row["added_ms"] for row in document["added"])
    return Goal(name, f"under {document['limit_ms']:g} ms", f"{worst:.2f} ms", worst < document["limit_ms"])


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.is_file() else None
