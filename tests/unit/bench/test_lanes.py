"""What is measured without the service runs as it does there: in prepared threads, and nowhere else."""

from __future__ import annotations

import argparse
import dataclasses
import threading

import numpy as np
import pytest

from bench.ours import OwnRunner
from bench.throughput import EMBEDDED, Clips, Course, add_flags, measure_bare, read_course
from export.signals import Batch
from service.bench.lanes import Lanes, place
from service.inference.bundle import Golden
from service.inference.runner import Int16Array, Int64Array, ModelOutput
from tests.support.runners import FakeRunner, level


class GpuLikeRunner(FakeRunner):
    """A model that runs in prepared threads only, as on a GPU, and notes which thread took how many windows."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.rows_of: dict[int, list[int]] = {}

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        if threading.get_ident() not in self.prepared_threads:
            raise RuntimeError("this thread was not prepared")
        self.rows_of.setdefault(threading.get_ident(), []).append(len(lengths))
        return super().run(waveform, lengths, embedding=embedding)


def batch_of(*labels: int) -> Batch:
    return Batch(np.stack([level(label, 16_000) for label in labels]), np.full(len(labels), 16_000))


def test_our_runner_scores_in_prepared_threads_and_cuts_what_is_larger_than_its_largest_batch() -> None:
    runner = GpuLikeRunner(num_lanes=2, batch_sizes=(1, 2))
    own = OwnRunner(runner, "Sonotag")
    assert len(set(runner.prepared_threads)) == 2
    for labels in ((1,), (1, 2), (0, 1, 2, 3, 2)):
        assert own.prepare(batch_of(*labels))().argmax(axis=1).tolist() == list(labels)
    first, second = (runner.rows_of[thread] for thread in runner.prepared_threads)
    assert (first, second) == ([1, 2, 2, 1], [2])


def test_several_batches_in_flight_use_both_lanes_and_answer_as_one() -> None:
    runner = GpuLikeRunner(num_lanes=2, batch_sizes=(1, 2))
    own = OwnRunner(runner, "Sonotag", batches=3)
    assert own.facts.batches == 3
    assert own.prepare(batch_of(1, 2))().argmax(axis=1).tolist() == [1, 2]
    assert [runner.rows_of[thread] for thread in runner.prepared_threads] == [[2, 2], [2]]


def test_the_bare_runner_of_the_throughput_runs_in_all_of_its_prepared_threads() -> None:
    runner = GpuLikeRunner(num_lanes=2, batch_sizes=(1, 4))
    lanes = Lanes(runner)
    batch = batch_of(1, 2, 3)
    golden = Golden(batch.waveform, batch.lengths, np.zeros((3, 4), np.float32))
    assert measure_bare(lanes, golden, seconds=0.0) > 0
    assert [runner.rows_of[thread] for thread in runner.prepared_threads] == [[1, 4], [1, 4]]
    assert Course(provider="cuda", bundle="base=b", workers=4).flags()[-4:] == ("--bundles", "base=b", "--workers", "4")


def test_a_thread_that_cannot_be_prepared_is_told_and_none_is_left() -> None:
    class Refusing(GpuLikeRunner):
        def prepare_thread(self) -> None:
            if self.prepared_threads:
                raise ValueError("no memory for a second session")
            super().prepare_thread()

    runner = Refusing(num_lanes=2)
    with pytest.raises(ValueError, match="no memory for a second session"):
        Lanes(runner)
    assert not any(thread.name.startswith("lane-") for thread in threading.enumerate())


def test_a_batch_for_a_gpu_is_a_copy_in_memory_of_its_own() -> None:
    waveform, lengths = np.full((2, 5), 7, np.int16), np.array([5, 5])
    for provider, is_copied in (("cpu", False), ("cuda", True)):
        placed, _ = place(waveform, lengths, provider)
        assert np.shares_memory(placed, waveform) is not is_copied
        np.testing.assert_array_equal(placed, waveform)


def test_the_course_of_the_embedded_model_names_its_bundle() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args(["--workers", "2"], argparse.Namespace(rounds=1, seconds=2.0))
    assert read_course(args) == dataclasses.replace(EMBEDDED, workers=2, rounds=1, seconds=2.0)
    args = parser.parse_args(["--clips", "2.5:flac", "30:WAV"], args)
    assert list(map(str, read_course(args).clips)) == ["2.5 s of FLAC", "30 s of WAV"]
    for wrong in ("5", "5:MP3", "long:WAV"):
        with pytest.raises(argparse.ArgumentTypeError, match="SECONDS:WAV"):
            Clips.parse(wrong)
    assert EMBEDDED.flags()[:2] == ("--provider", "cpu")
    assert EMBEDDED.bundle.startswith("ast-tiny-16-16-5s=")
