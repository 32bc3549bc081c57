"""The cases of the event law that Python's detector and the page's both pass: `tests/vectors/events/*.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.labels import LabelSet
from service.postprocess.event_config import EventConfig
from service.postprocess.events import EventDetector
from service.postprocess.hysteresis import Thresholds

Case = Mapping[str, Any]
"""`sample_rate`, `window_samples`, `labels`, `events` (the configuration), `windows` with `start` and `end` in samples and
`scores`, and what is `expected`: label, onset and offset in samples, peak; by onset, then by the label's id."""

FOLDER = Path(__file__).parents[1] / "vectors" / "events"


def event_cases() -> list[Case]:
    """Return all cases."""
    return [case for file in sorted(FOLDER.glob("*.json")) for case in json.loads(file.read_text())]


def detect(case: Case) -> list[dict[str, object]]:
    """Return the events that Python's detector finds in a case."""
    labels = LabelSet(tuple(case["labels"]))
    thresholds = Thresholds.compile(EventConfig.model_validate(case["events"]), labels, case["sample_rate"])
    detector = EventDetector(case["window_samples"], thresholds)
    windows: Sequence[Mapping[str, Any]] = case["windows"]
    changes = [change for w in windows for change in detector.add(w["start"], w["end"], np.array(w["scores"], np.float32))]
    changes += detector.finish()
    events = [change.event for change in changes if change.phase == "offset" and not change.retracted]
    events.sort(key=lambda event: (event.onset, event.label_id))
    return [
        {"label": labels[event.label_id], "onset": event.onset, "offset": event.offset, "peak": event.peak} for event in events
    ]
