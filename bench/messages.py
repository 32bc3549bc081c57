"""What writing a stream's messages as JSON costs, by library: `python -m bench.messages`.

The messages are those of a live stream: a window's tags, an event, the answer to an update. Each is written from the pydantic
model that the service has, and by libraries that take plain data also from that: what it would take if there were no models.
orjson and msgspec are no dependencies; they take part where they are installed (``pip install orjson msgspec``).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.command import run_measurement
from service.inference.bundle import open_bundle
from service.postprocess.event_config import EventConfig
from service.settings import EMBEDDED_BUNDLE
from service.streaming.messages import Configured, EventMessage, ServerMessage, StreamConfiguration, TagItem, Tags

OURS = "pydantic, as the service writes"
NUM_CALLS = 2000


@dataclass(frozen=True, slots=True)
class Written:
    """Microseconds of processor time for one message: the least of all rounds, which what else the machine does only adds to.

    Attributes:
        message: Its kind.
        num_bytes: Of its text.
        microseconds: By who writes it.
    """

    message: str
    num_bytes: int
    microseconds: Mapping[str, float]


def make_messages() -> dict[str, ServerMessage]:
    """Return one message of each kind that a stream has more than one of, with labels of the embedded model."""
    labels = open_bundle(EMBEDDED_BUNDLE.folder).labels
    tags = tuple(TagItem(label=labels[index], id=index, score=round(0.9312047 / (index + 1), 7)) for index in range(10))
    configuration = StreamConfiguration(
        model="ast-tiny-16-16-5s",
        encoding="s16le",
        sample_rate=48_000,
        channels=1,
        channel=None,
        window=5.135,
        hop=1.0,
        top_k=10,
        threshold=0.1,
        labels=(),
        exclude=(),
        events=EventConfig(),
        on_lag="skip",
    )
    return {
        "tags, five": Tags(seq=7, start=1.865, end=7.0, coverage=1.0, lag_ms=21.4, tags=tags[:5]),
        "tags, ten": Tags(seq=7, start=1.865, end=7.0, coverage=1.0, lag_ms=21.4, tags=tags),
        "event": EventMessage(seq=8, event_id=3, label=labels[0], phase="update", onset=4.0, offset=7.0, peak=0.9312047),
        "configuration": Configured(seq=9, from_=7.25, configuration=configuration),
    }


def list_writers() -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """Return who writes: a function, and whether it takes plain data in place of a message."""
    libraries: dict[str, Callable[[Any], Any]] = {"json": lambda data: json.dumps(data, separators=(",", ":"))}
    if importlib.util.find_spec("orjson"):
        dumps = importlib.import_module("orjson").dumps
        libraries["orjson"] = lambda data: dumps(data).decode()
    if importlib.util.find_spec("msgspec"):
        encoder = importlib.import_module("msgspec.json").Encoder()
        libraries["msgspec"] = lambda data: encoder.encode(data).decode()
    writers: dict[str, tuple[Callable[[Any], Any], bool]] = {OURS: (ServerMessage.to_json, False)}
    for name, write in libraries.items():
        writers[f"{name}, from the model"] = (partial(_write_model, write), False)
        writers[f"{name}, from plain data"] = (write, True)
    return writers


def _write_model(write: Callable[[Any], Any], message: ServerMessage) -> Any:
    return write(to_data(message))


def to_data(message: ServerMessage) -> dict[str, Any]:
    """Return a message as plain data."""
    absent = {name for name in message.left_out_when_none if getattr(message, name) is None}
    return message.model_dump(mode="json", by_alias=True, exclude=absent)


def measure_writing(rounds: int) -> list[Written]:
    """Let all write every message in each round.

    Raises:
        AssertionError: They do not write the same.
    """
    rows = []
    for kind, message in make_messages().items():
        given = {name: (write, to_data(message) if is_plain else message) for name, (write, is_plain) in list_writers().items()}
        for write, data in given.values():
            assert json.loads(write(data)) == json.loads(message.to_json())
        times = [{name: _microseconds(write, data) for name, (write, data) in given.items()} for _ in range(rounds)]
        rows.append(Written(kind, len(message.to_json()), {name: min(taken[name] for taken in times) for name in given}))
    return rows


def _microseconds(write: Callable[[Any], Any], data: object) -> float:
    return 1e6 * timeit.timeit(lambda: write(data), timer=time.process_time, number=NUM_CALLS) / NUM_CALLS


def to_markdown(rows: list[Written]) -> str:
    """Return the table."""
    lines = ["| microseconds | " + " | ".join(f"{row.message} ({row.num_bytes} bytes)" for row in rows) + " |"]
    lines.append("|---|" + "---:|" * len(rows))
    lines += [
        f"| {name} | " + " | ".join(f"{row.microseconds[name]:.2f}" for row in rows) + " |" for name in rows[0].microseconds
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.messages",
        lambda args: measure_writing(args.rounds),
        seconds=0.0,
        to_numbers=lambda rows: {"written": [asdict(row) for row in rows]},
        to_markdown=to_markdown,
    )


if __name__ == "__main__":
    sys.exit(main())
