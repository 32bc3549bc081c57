"""Measurements of the fake model on this machine."""

from __future__ import annotations

from datetime import UTC, datetime

from service.capacity import Measurement
from service.inference.tuning import Tuning
from service.machine import count_usable_cores


def make_measurement(**changes: object) -> Measurement:
    """Return what `sonotag bench` would write of `FakeRunner` here, with changes."""
    document: dict[str, object] = {
        "streams": 24,
        "windows_per_second": 31.5,
        "slo_seconds": 0.5,
        "hop_seconds": 1.0,
        "model": "fake",
        "model_sha256": "0" * 64,
        "provider": "cpu",
        "precision": "fp32",
        "cores": count_usable_cores(),
        "workers": 1,
        "measured_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
    }
    return Measurement.model_validate(document | changes)


def make_tuning(**conditions: object) -> Tuning:
    """Return what `sonotag bench --tune` would write of a bundle on two cores, with changes to what it was measured with."""
    return Tuning.model_validate(
        {
            "conditions": {
                "bundle": "0" * 64,
                "provider": "cpu",
                "precision": "auto",
                "threads": None,
                "workers": 1,
                "cores": 2,
                "processor": "A processor",
            }
            | conditions,
            "way": {"precision": "fp32", "threads": 1, "lanes": 2, "batch_size": 1},
            "windows_per_second": 90.5,
            "measured_at": datetime(2026, 11, 23, 12, tzinfo=UTC),
        }
    )
