from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from service.errors import BundleError, Draining, NotFound
from service.inference.batcher import Batcher
from service.inference.bundle import open_bundle
from service.inference.catalog import Catalog, describe_conditions, open_catalog
from service.inference.policy import Priority
from service.logs import TextFormatter
from service.observer import NullObserver
from service.settings import Settings
from tests.support.bundles import LABELS, NUM_SAMPLES, write_bundle
from tests.support.measurements import make_tuning
from tests.support.runners import FakeRunner, level


@dataclass(frozen=True)
class Engine:
    provider: Literal["auto", "cpu", "cuda"] = "cpu"
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    tensorrt_cache: Path | None = None
    model_memory_bytes: int | None = None
    threads: int | None = None
    workers: int = 2
    max_queue_windows: int = 8
    live_share: float = 0.8


def fake_catalog(*names: str) -> tuple[Catalog, list[FakeRunner]]:
    runners = [FakeRunner(name=name) for name in names]
    return Catalog({r.spec.name: Batcher(r, max_queue_windows=8, observer=NullObserver()) for r in runners}), runners


def test_the_first_model_is_the_default() -> None:
    catalog, _ = fake_catalog("one", "two")
    assert (catalog.names, catalog.default, len(catalog)) == (("one", "two"), "one", 2)
    assert catalog.get(None).spec.name == "one"
    assert catalog.get("two").spec.name == "two"
    assert [batcher.spec.name for batcher in catalog] == ["one", "two"]


def test_an_unknown_model_is_answered_with_those_that_are_served() -> None:
    catalog, _ = fake_catalog("one", "two")
    for ask in (catalog.get, catalog.describe):
        with pytest.raises(NotFound, match="no model 'three' is served; there are: one, two") as caught:
            ask("three")
        assert caught.value.param == "model"


def test_a_catalog_of_nothing_is_refused() -> None:
    with pytest.raises(BundleError, match="SONOTAG_BUNDLES"):
        Catalog({})


async def test_models_are_started_and_stopped_together() -> None:
    catalog, runners = fake_catalog("one", "two")
    catalog.start()
    for index, name in enumerate(catalog.names):
        answer = await catalog.get(name).submit(level(index, 400), priority=Priority.LIVE)
        assert answer.scores[index] == 1
    async with asyncio.timeout(30):
        await catalog.stop()
        await catalog.stop()
    assert all(runner.closed for runner in runners)
    with pytest.raises(Draining):
        await catalog.get(None).submit(level(0, 400), priority=Priority.LIVE)


def test_a_runner_without_a_bundle_is_described_by_its_spec() -> None:
    catalog, _ = fake_catalog("one", "two")
    described = catalog.describe("two")
    assert described["window_seconds"] == 1.0
    assert described["windows_seconds"] == [1.0]
    assert described["labels"] == 4
    assert (described["name"], described["default"]) == ("two", False)
    assert catalog.describe(None)["default"] is True
    json.dumps(described)


async def test_bundles_are_served_under_the_names_they_were_given(tmp_path: Path) -> None:
    folders = {"loud": write_bundle(tmp_path / "a"), "quiet": write_bundle(tmp_path / "b", activation="softmax")}
    catalog = open_catalog(folders, Engine(), NullObserver())
    assert catalog.names == ("loud", "quiet")
    catalog.start()
    answer = await catalog.get("quiet").submit(np.full(NUM_SAMPLES, 99, np.int16), priority=Priority.BULK)
    assert answer.scores.sum() == pytest.approx(1, abs=1e-5)
    await catalog.stop()


@pytest.mark.parametrize(("cores", "workers", "num_lanes"), [(8, 4, 2), (8, 2, 4), (2, 4, 1), (3, 1, 3)])
def test_workers_divide_the_cores_between_their_models(cores: int, workers: int, num_lanes: int, tmp_path: Path) -> None:
    catalog = open_catalog({"a": write_bundle(tmp_path / "a")}, Engine(workers=workers), NullObserver(), cores=cores)
    assert (catalog.get("a").spec.num_lanes, catalog.get("a").spec.tuned_at) == (num_lanes, None)
    catalog.abandon()


def test_a_tuning_holds_for_the_model_of_which_it_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = {"a": write_bundle(tmp_path / "a"), "b": write_bundle(tmp_path / "b", activation="softmax")}
    engine = Engine(workers=1)
    conditions = describe_conditions(open_bundle(folders["b"]), "cpu", engine, cores=2)
    tuning = make_tuning(**conditions.model_dump())
    with caplog.at_level(logging.INFO):
        catalog = open_catalog(folders, engine, NullObserver(), tuning=tuning, cores=2)
    assert [batcher.spec.tuned_at for batcher in catalog] == [None, tuning.measured_at]
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert any("the measured tuning is not used" in line and "it was measured with bundle" in line for line in lines)
    assert any("1 CPU thread(s), 2 lane(s)" in line and "measured by sonotag bench on 2026-11-23" in line for line in lines)
    catalog.abandon()


async def test_a_description_holds_what_a_client_wants_and_no_path(tmp_path: Path) -> None:
    catalog = open_catalog({"loud": write_bundle(tmp_path / "a")}, Engine(threads=1), NullObserver())
    described = catalog.describe("loud")
    assert described["architecture"]["model_type"] == "audio-spectrogram-transformer"
    assert described["parameters"] == described["architecture"]["num_parameters"]
    assert described["source"] == {
        "name": "made-up/linear",
        "format": "transformers",
        "sha256": "a" * 64,
        "licence": "CC0-1.0",
    }
    assert described["bundle"]["name"] == "linear"
    assert (described["labels"], described["activation"]) == (len(LABELS), "sigmoid")
    assert (described["precision"], described["provider"], described["precisions"]) == ("fp32", "cpu", ["fp32"])
    assert described["parity"]["checks"][0]["measured"] == 1e-6
    assert described["load_seconds"] >= 0
    assert str(tmp_path) not in json.dumps(described)
    await catalog.stop()


def test_one_bad_bundle_stops_the_start(tmp_path: Path) -> None:
    folders = {"good": write_bundle(tmp_path / "a"), "bad": tmp_path / "nothing"}
    with pytest.raises(BundleError, match=r"model \w+ in .*: .* is no bundle"):
        open_catalog(folders, Engine(), NullObserver())


async def test_the_service_s_settings_open_the_embedded_bundle() -> None:
    settings = Settings(provider="cpu")
    catalog = open_catalog(dict(settings.bundles), settings, NullObserver())
    assert catalog.describe(None)["source"]["licence"]
    await catalog.stop()


def test_an_error_of_a_bundle_names_the_model_as_it_is_served_and_its_folder(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bad", name="exported-as")
    (folder / "golden.npz").write_bytes(b"other")
    with pytest.raises(BundleError) as caught:
        open_catalog({"served": folder}, Engine(), NullObserver())
    expected = f"model served in {folder}: bundle 'exported-as' is altered: golden.npz is not the file that export wrote"
    assert str(caught.value) == expected
