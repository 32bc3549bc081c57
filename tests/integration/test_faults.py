"""What happens to callers when a part of the service breaks, with real processes."""

from __future__ import annotations

import io
import os
import signal
import threading
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from service import exit_codes
from tests.support.process import ServiceProcess, running
from tests.support.runners import IllRunner

APP = "tests.support.fake_service"
QUICK = {"SONOTAG_WATCHDOG_SECONDS": "1"}


def clip(value: int, seconds: float = 1.0) -> bytes:
    """A WAV file of one level; `IllRunner` says which make it ill."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(np.full(int(16_000 * seconds), value, "<i2").tobytes())
    return file.getvalue()


def classify(service: ServiceProcess, value: int, seconds: float = 1.0) -> httpx.Response:
    return httpx.post(service.url + "/v1/classify", content=clip(value, seconds), timeout=60)


@contextmanager
def served(tmp_path: Path, **environ: str) -> Iterator[ServiceProcess]:
    with running(APP, cwd=tmp_path, environ=environ) as service:
        service.wait_ready()
        yield service


def test_a_model_that_hangs_fails_its_callers_and_the_process_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    with served(tmp_path, **QUICK) as service:
        assert classify(service, 1000).json()["tags"][0]["label"] == "Speech"
        answers: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(classify(service, IllRunner.HANG)))
        waiting.start()
        waiting.join(60)
        assert answers[0].status_code == 500
        error = answers[0].json()["error"]
        assert (error["code"], error["retryable"]) == ("inference_failed", True)
        assert "does not answer" in error["message"]
        assert service.wait() == exit_codes.HUNG
        assert "a model hangs (SONOTAG_WATCHDOG_SECONDS)" in service.stderr
        assert "Traceback" not in service.stderr


def test_a_process_that_ends_for_its_model_is_not_ready_until_it_has_ended(tmp_path: Path) -> None:
    may_end = threading.Event()

    def slow_clip() -> Iterator[bytes]:
        yield clip(1000)[:-2]
        assert may_end.wait(60)
        yield clip(1000)[-2:]

    with served(tmp_path, **QUICK) as service, httpx.Client(base_url=service.url) as probe, ThreadPoolExecutor() as pool:
        assert probe.get("/health/ready").status_code == 200, "the probe's connection is there"
        under_way = pool.submit(httpx.post, service.url + "/v1/classify", content=slow_clip(), timeout=60)
        hung = pool.submit(classify, service, IllRunner.HANG)
        assert hung.result(60).status_code == 500
        try:
            for _ in range(10):
                answer = probe.get("/health/ready")
                assert answer.status_code == 503, "what is under way still holds the process"
                error = answer.json()["error"]
                assert (error["code"], error["retryable"]) == ("not_ready", True)
                assert "does not answer" in error["message"]
            assert probe.get("/health/live").status_code == 200
        finally:
            may_end.set()
        assert under_way.result(60).json()["error"]["code"] == "inference_failed"
        assert service.wait() == exit_codes.HUNG


def test_a_worker_whose_model_hangs_is_replaced_while_the_other_one_serves(tmp_path: Path) -> None:
    with served(tmp_path, SONOTAG_WORKERS="2", **QUICK) as service:
        assert classify(service, IllRunner.HANG).status_code == 500
        service.wait_for_line(rf"a worker died .*code={exit_codes.HUNG}")
        for _ in range(50):
            assert classify(service, 1000).status_code == 200, "nobody is sent to a worker that is not ready"
            assert httpx.get(service.url + "/health/ready").status_code == 200
        assert service.end_cleanly() == exit_codes.OK, service.stderr


def test_a_worker_that_stands_still_is_killed_and_replaced(tmp_path: Path) -> None:
    with served(tmp_path, SONOTAG_WORKERS="2", **QUICK) as service:
        children = service.children()
        assert len(children) == 2
        os.kill(children[0], signal.SIGSTOP)
        service.wait_for_line(rf"a worker stands still .*pid={children[0]}")
        service.wait_for_line(rf"a worker died .*pid={children[0]} code=-9")
        assert classify(service, 1000).status_code == 200


def test_a_batch_that_fails_costs_its_own_callers_an_answer_and_nobody_else(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        failed = classify(service, IllRunner.FAIL)
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "inference_failed"
        assert classify(service, 1000).json()["tags"][0]["label"] == "Speech"


def test_a_batch_without_memory_is_answered_all_the_same(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        answer = httpx.post(service.url + "/v1/classify?timeline=true&hop=1", content=clip(IllRunner.NO_MEMORY, 6), timeout=60)
        assert len(answer.json()["windows"]) == 6
        assert service.end_cleanly() == exit_codes.OK


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_a_service_whose_model_hangs(tmp_path: Path, workers: str) -> None:
    with served(tmp_path, SONOTAG_WORKERS=workers, SONOTAG_DRAIN_SECONDS="3600") as service:
        waiting = threading.Thread(target=hang_and_be_cut_off, args=(service,))
        waiting.start()
        service.wait_for_line("the model hangs now")
        assert service.insist(signal.SIGTERM) == exit_codes.UNFINISHED
        waiting.join(60)


def hang_and_be_cut_off(service: ServiceProcess) -> None:
    with suppress(httpx.HTTPError):  # cut off before or in the middle of an answer
        assert classify(service, IllRunner.HANG).status_code == 500
