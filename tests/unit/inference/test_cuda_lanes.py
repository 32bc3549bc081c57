from __future__ import annotations

import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.gpus import GpuReader
from service.inference.bundle import open_bundle
from service.inference.cuda_lanes import MAX_GRAPH_ROWS, CaptureGuard, CudaLanes
from service.inference.onnx_runner import OnnxRunner
from service.inference.pinned import allocate_pinned, find_cuda_runtime
from service.inference.providers import find_obstacle, has_nvidia_device
from service.inference.runner import ModelSpec
from tests.support.bundles import NUM_SAMPLES, reference, write_bundle

EMBEDDED = Path(__file__).resolve().parents[3] / "service" / "bundles" / "ast-tiny-16-16-5s"
WAIT_SECONDS = 30.0


@pytest.fixture
def runner(tmp_path: Path) -> OnnxRunner:
    return OnnxRunner.open(open_bundle(write_bundle(tmp_path)), provider="cpu", num_threads=1)


class Lanes:
    """`CudaLanes` on the CPU provider, which takes the same calls, and what was asked of it."""

    def __init__(self, runner: OnnxRunner) -> None:
        self.sizes = (1, MAX_GRAPH_ROWS, 2 * MAX_GRAPH_ROWS)
        self.spec: ModelSpec = dataclasses.replace(runner.spec, batch_sizes=self.sizes)
        self.model = str(runner.bundle.model_path("fp32"))
        self.graphs_asked: list[bool] = []
        self.proven: list[int] = []
        self.refuse_graphs = False
        self.lanes = CudaLanes(self.make_session, self.spec, device="cpu", guard=CaptureGuard())

    def make_session(self, cuda_graphs: bool) -> onnxruntime.InferenceSession:
        self.graphs_asked.append(cuda_graphs)
        return onnxruntime.InferenceSession(self.model, providers=["CPUExecutionProvider"])

    def prove(self, rows: int) -> None:
        if self.refuse_graphs and self.graphs_asked[-1] and rows <= MAX_GRAPH_ROWS:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.score(rows)
        self.proven.append(rows)

    def score(self, rows: int) -> None:
        waveform = np.random.default_rng(rows).integers(-30_000, 30_000, (rows, NUM_SAMPLES), np.int16)
        lengths = np.full(rows, NUM_SAMPLES)
        scores = self.lanes.run(waveform, lengths, embedding=False).scores
        np.testing.assert_allclose(scores, reference(waveform, lengths, "sigmoid")[2], atol=1e-5)


def test_every_size_is_proven_before_a_thread_serves_and_small_ones_again_when_they_are_replayed(runner: OnnxRunner) -> None:
    lanes = Lanes(runner)
    lanes.lanes.enter(lanes.prove)
    assert lanes.graphs_asked == [True]
    assert lanes.proven == [16, 8, 8, 1, 1]


def test_each_thread_has_a_session_of_its_own_and_they_run_side_by_side(runner: OnnxRunner) -> None:
    lanes = Lanes(runner)
    meeting = threading.Barrier(2)

    def serve() -> None:
        assert not lanes.lanes.is_entered
        lanes.lanes.enter(lanes.prove)
        meeting.wait(WAIT_SECONDS)
        for rows in (1, 3, 8, 16, 2):
            lanes.score(rows)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(serve), pool.submit(serve)]:
            job.result(WAIT_SECONDS)
    assert lanes.graphs_asked == [True, True]
    assert not lanes.lanes.is_entered
    with pytest.raises(RuntimeError, match="has not entered"):
        lanes.score(1)


def test_a_graph_that_cannot_be_captured_is_done_without_and_the_log_says_why(
    runner: OnnxRunner, caplog: pytest.LogCaptureFixture
) -> None:
    lanes = Lanes(runner)
    lanes.refuse_graphs = True
    with caplog.at_level(logging.WARNING):
        lanes.lanes.enter(lanes.prove)
    assert lanes.graphs_asked == [True, False]
    assert lanes.proven == [16, 16, 8, 1]
    assert "runs without CUDA graphs, small batches are slower: operation not permitted" in caplog.text
    assert "and more" not in caplog.text
    lanes.score(8)


def test_a_model_that_is_wrong_without_graphs_too_is_not_served(runner: OnnxRunner) -> None:
    lanes = Lanes(runner)

    def refuse(rows: int) -> None:
        raise ValueError(f"wrong at {rows}")

    with pytest.raises(ValueError, match="wrong at 16"):
        lanes.lanes.enter(refuse)


def test_a_capture_waits_for_those_who_run_and_keeps_later_ones_out() -> None:
    guard, order = CaptureGuard(), []
    inside, leave, captured = threading.Event(), threading.Event(), threading.Event()

    def run_first() -> None:
        with guard.running():
            inside.set()
            assert leave.wait(WAIT_SECONDS)
            order.append("run")

    def capture() -> None:
        with guard.capturing():
            order.append("capture")
            assert not guard._num_running
        captured.set()

    def run_later() -> None:
        with guard.running():
            order.append("later run")

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(run_first)]
        assert inside.wait(WAIT_SECONDS)
        with guard.running():  # runs do not exclude each other
            pass
        jobs.append(pool.submit(capture))
        while not guard._is_capturing:  # set before it waits for the one that runs
            pass
        jobs.append(pool.submit(run_later))
        assert not captured.is_set()
        leave.set()
        for job in jobs:
            job.result(WAIT_SECONDS)
    assert order == ["run", "capture", "later run"]


@pytest.mark.gpu
def test_on_a_gpu_two_threads_give_the_golden_scores_at_once_from_graphs_in_memory_that_does_not_grow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not has_nvidia_device():
        pytest.skip("needs an NVIDIA GPU")
    bundle = open_bundle(EMBEDDED)
    golden = bundle.load_golden()
    runner = OnnxRunner.open(bundle, provider="cuda")
    sizes = runner.spec.batch_sizes
    prepared, used = threading.Barrier(runner.spec.num_lanes + 1), []

    def score(rows: int) -> None:
        places = np.arange(rows) % len(golden.lengths)
        output = runner.run(golden.waveform[places], golden.lengths[places], embedding=rows % 2 == 0)
        np.testing.assert_allclose(output.scores, golden.scores[places], atol=1e-3)

    def serve(turn: threading.Lock, seed: int) -> None:
        with turn:
            runner.prepare_thread()
        prepared.wait(WAIT_SECONDS)
        for rows in sizes:
            score(rows)
        prepared.wait(WAIT_SECONDS)
        for rows in np.random.default_rng(seed).choice(sizes, 200):
            score(int(rows))

    turn = threading.Lock()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(runner.spec.num_lanes) as pool:
        jobs = [pool.submit(serve, turn, seed) for seed in range(runner.spec.num_lanes)]
        prepared.wait(WAIT_SECONDS)
        prepared.wait(WAIT_SECONDS)
        used.append(GpuReader().read()[0].used_bytes)
        for job in jobs:
            job.result(WAIT_SECONDS)
        used.append(GpuReader().read()[0].used_bytes)
    assert not caplog.records  # no lane runs without graphs
    assert used[1] == used[0]


@pytest.mark.gpu
def test_on_a_gpu_host_memory_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    if not has_nvidia_device():
        pytest.skip("needs an NVIDIA GPU")
    assert find_obstacle("cuda") is None
    with caplog.at_level(logging.WARNING):
        allocate_pinned((32, 160_000), np.int16)
    assert find_cuda_runtime() is not None
    assert not caplog.records
