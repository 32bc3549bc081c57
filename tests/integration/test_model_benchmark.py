"""The comparison of models on a small checkpoint with random weights: everybody scores alike, and the report says what was."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.__main__ import main
from bench.clips import ClipsError, first_rows, read_batch
from bench.contestants import Absent, Facts, Run
from bench.model import ModelReport, Request, run_model_benchmark
from bench.ours import open_own
from bench.race import Spread, run_race
from bench.report import JSON_FILE, MARKDOWN_FILE, SPEED_PLOT, SPREAD_PLOT, to_markdown, write_report
from bench.service import draw_lag
from bench.transformers_peers import TransformersPeer
from bench.work import Product, count_work
from export.architecture import Architecture
from export.checkpoint import load_checkpoint
from export.frontend import Features, LogMel
from export.network import Encoder
from export.operators import PortableOperators
from export.pipeline import Request as ExportRequest
from export.pipeline import export_bundle
from export.signals import Batch
from service import exit_codes
from tests.support.bench_reports import make_report, make_stage
from tests.support.checkpoints import Spec, random_tensors, write_checkpoint
from tests.support.shared import REPOSITORY, shared_path

BASE = Architecture(768, 12, 12, 3072, 16, 10, 10, 128, 1024, 527)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its bundle."""
    folder = tmp_path_factory.mktemp("model")
    checkpoint = write_checkpoint(folder / "random", Spec())
    export_bundle(ExportRequest(str(checkpoint), folder / "bundle", precisions=("fp32",)))
    return checkpoint, folder / "bundle"


@pytest.fixture(scope="module")
def report(folders: tuple[Path, Path]) -> ModelReport:
    """A race of everybody that needs no compiler."""
    checkpoint, bundle = folders
    request = Request(
        device="cpu",
        bundles=(bundle,),
        checkpoint=str(checkpoint),
        batches=(1, 3),
        rounds=2,
        lasting=0,
        clips=REPOSITORY / "examples",
        peers=("eager", "openvino", "yamnet"),
    )
    return run_model_benchmark(request)


def test_all_that_run_the_checkpoint_give_its_scores(report: ModelReport) -> None:
    names = [facts.name for facts in report.facts]
    assert names == ["Sonotag fp32", "transformers eager fp32", "transformers as called, fp32", "OpenVINO fp32"]
    assert report.absent == (Absent("YAMNet (TFLite)", "no file was given (--yamnet)"),)
    for race in report.races:
        for time in race.times:
            assert time.error == ""
            assert time.difference is not None
            assert time.difference < 1e-4, time.name


def test_each_is_measured_at_each_batch_size_with_its_spread(report: ModelReport) -> None:
    assert [{time.batch for time in race.times} for race in report.races] == [{1}, {3}]
    for race in report.races:
        assert race.product.lower <= race.product.median <= race.product.upper
        for time in race.times:
            assert time.seconds is not None
            assert 0 < time.seconds.least <= time.seconds.lower <= time.seconds.median <= time.seconds.upper


def test_the_report_is_written_with_its_plots(report: ModelReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new")
    document = json.loads((tmp_path / "new" / JSON_FILE).read_text())
    assert document["type"] == "model"
    assert len(document["races"]) == 2
    markdown = (tmp_path / "new" / MARKDOWN_FILE).read_text()
    for plot in (SPEED_PLOT, SPREAD_PLOT):
        assert (tmp_path / "new" / plot).read_bytes().startswith(b"\x89PNG")
        assert f"({plot})" in markdown
    rows = [line for line in to_markdown(report).splitlines() if line.startswith("| Sonotag fp32")]
    assert "A window is nominally " in markdown
    assert len(rows) == 3
    assert re.search(r"\| [\d.e+-]+ \([\d.e+-]+ TFLOP/s\) \|", rows[1])
    assert "large product" not in markdown
    assert "Not in the race: YAMNet (TFLite): no file was given" in markdown


def test_on_a_gpu_the_rate_is_compared_with_that_of_a_large_product(report: ModelReport) -> None:
    markdown = to_markdown(replace(report, kind="cuda"))
    assert re.search(r"Sonotag fp32.*\| [\d.e+-]+ \([\d.e+-]+ TFLOP/s, \d+\.\d\d\) \|", markdown)
    assert "how much of the large product's rate that is" in markdown
    assert "matrices of 2048 squared ran at " in markdown


class Fixed:
    """A contestant with fixed scores, which notes when it runs."""

    def __init__(self, name: str, log: list[str], *, fails: bool = False, is_same_model: bool = True) -> None:
        self.facts = Facts(name, "fp32", "waveform to scores", is_same_model=is_same_model)
        self._log, self._fails = log, fails

    def prepare(self, batch: Batch) -> Run:
        if self._fails:
            raise RuntimeError("no such operator\nand a long explanation")

        def run() -> np.ndarray:
            self._log.append(self.facts.name)
            return np.full((len(batch.lengths), 2), 0.75, np.float32)

        return run


def test_the_rounds_are_interleaved_and_begun_by_another_one_each() -> None:
    log: list[str] = []
    contestants = [Fixed("a", log), Fixed("b", log), Fixed("broken", log, fails=True), Fixed("other", log, is_same_model=False)]
    batch = Batch(np.zeros((2, 400), np.int16), np.array([400, 400]))
    race = run_race(contestants, batch, np.full((2, 2), 0.5, np.float32), Product("cpu", size=8), rounds=3)
    order = [name for index, name in enumerate(log) if index == 0 or log[index - 1] != name]
    # Prepared in order; then rounds that begin with a, b and the other model.
    assert order == ["a", "b", "other", "a", "b", "other", "b", "other", "a", "other", "a", "b"]
    first, _, broken, other = race.times
    assert first.difference == 0.25
    assert (broken.seconds, broken.error) == (None, "no such operator")
    assert other.difference is None
    assert other.seconds is not None


def test_there_are_more_rounds_for_as_long_as_is_asked_for() -> None:
    log: list[str] = []
    batch = Batch(np.zeros((2, 400), np.int16), np.array([400, 400]))
    race = run_race(
        [Fixed("a", log)], batch, np.full((2, 2), 0.75, np.float32), Product("cpu", size=8), 1, min_seconds=0, lasting=0.1
    )
    assert log.count("a") > 2 + 2 * 1  # prepared and timed once, and a round: it takes microseconds
    assert race.times[0].seconds is not None


def test_the_time_of_a_run_that_scores_several_batches_is_shared_among_them() -> None:
    log: list[str] = []
    one, million = Fixed("one", log), Fixed("million", log)
    million.facts = replace(million.facts, batches=1_000_000)
    batch = Batch(np.zeros((2, 400), np.int16), np.array([400, 400]))
    race = run_race([one, million], batch, np.full((2, 2), 0.75, np.float32), Product("cpu", size=8), rounds=3, min_seconds=0)
    assert log.count("one") == log.count("million") == 8  # prepared and timed once; in each round to warm up and timed
    alone, shared = (time.seconds for time in race.times)
    assert alone is not None
    assert shared is not None
    assert 0 < shared.median < alone.median / 100


def test_batches_that_are_queued_on_a_device_all_run_and_the_last_one_is_read(folders: tuple[Path, Path]) -> None:
    checkpoint = load_checkpoint(str(folders[0]))
    seen: list[int] = []

    def network(values: torch.Tensor) -> torch.Tensor:
        seen.append(len(values))
        return torch.full((len(values), 2), float(len(seen)))

    facts = Facts("queued", "fp32", "features to scores", batches=4)
    peer = TransformersPeer(checkpoint, "cpu", network, torch.float32, facts)
    batch = read_batch(REPOSITORY / "examples", checkpoint.architecture.window_samples, 2)
    scores = peer.prepare(batch)()
    assert seen == [2] * 4
    assert np.allclose(scores, 1 / (1 + np.exp(-4.0)))


def test_the_spread_is_the_quartiles() -> None:
    assert Spread.of([4, 1, 3, 2, 5]) == Spread(median=3, lower=2, upper=4, least=1)


def test_the_operations_of_base_are_those_that_are_known() -> None:
    """`design/export.md`: 206 GFLOP in linear products, 54 in attention, 0.5 in patches."""
    work = count_work(BASE)
    giga = [round(part / 1e9, 1) for part in (work.linear, work.attention, work.patches)]
    assert giga == [206.2, 54.3, 0.5]
    assert work.encoder == work.linear + work.attention + work.patches


class CountedOperators(PortableOperators):
    """With an attention that torch sees into: the graph's own is one operator to it."""

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
        query, key, value = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        return (torch.softmax(query @ key.transpose(2, 3), dim=3) @ value).transpose(1, 2).flatten(2)


def test_a_graph_of_our_export_does_as_many_operations_as_are_counted_for_it() -> None:
    """torch counts them while the encoder runs: the last layer is not done whole, as transformers does it."""
    spec = Spec(num_layers=3)
    encoder = Encoder(random_tensors(spec), spec.architecture, CountedOperators(1e-12, unfolds_patches=False))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(torch.zeros(1, spec.max_length, 128))
    work = count_work(spec.architecture)
    assert counter.get_total_flops() == work.exported < work.encoder
    base = count_work(BASE)
    assert base.exported / base.encoder == pytest.approx(0.928, abs=0.001)


def test_the_front_end_does_as_many_operations_as_are_counted_for_it() -> None:
    """Of a frame folded about its middle, which is half of what it was."""
    architecture = Spec().architecture
    front_end = LogMel(architecture.num_mel_bins, architecture.max_length, Features())
    samples = architecture.window_samples
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        front_end(torch.zeros(1, samples, dtype=torch.int16), torch.tensor([samples]))
    assert counter.get_total_flops() == count_work(architecture).front_end


def test_a_product_counts_its_operations() -> None:
    product = Product("cpu", size=64)
    assert product.operations == 2 * 64**3
    assert product.measure(2) > 0


def test_the_batch_is_filled_with_the_sounds_round_and_round(tmp_path: Path) -> None:
    for name, length in (("b.wav", 1000), ("a.wav", 500), ("c.txt", 0), ("short.wav", 100)):
        if length:
            soundfile.write(tmp_path / name, np.full(length, length, np.int16), 16_000)
        else:
            (tmp_path / name).write_text("no sound")
    batch = read_batch(tmp_path, 800, 5)
    assert batch.lengths.tolist() == [500, 800, 500, 800, 500]
    assert batch.waveform[:, 0].tolist() == [500, 1000, 500, 1000, 500]
    assert batch.waveform[0, 500:].max() == 0
    assert first_rows(batch, 2).waveform.shape == (2, 800)
    with pytest.raises(ClipsError, match="no sound"):
        read_batch(tmp_path / "missing", 800, 1)


def test_a_precision_that_is_not_served_there_is_absent_with_the_reason(folders: tuple[Path, Path]) -> None:
    (own,) = open_own((folders[1],), "cpu")
    assert not isinstance(own, Absent)
    (absent,) = open_own((folders[1],), "cuda") if not has_cuda() else (Absent("Sonotag fp32", "CUDA cannot be had"),)
    assert isinstance(absent, Absent)
    assert "CUDA cannot be had" in absent.reason


def has_cuda() -> bool:
    return torch.cuda.is_available()


@pytest.mark.shared
def test_yamnet_scores_its_521_classes() -> None:
    from bench.yamnet_peer import YamnetPeer

    peer = YamnetPeer(shared_path("peers", "yamnet", "yamnet.tflite"))
    batch = read_batch(REPOSITORY / "examples", 82_160, 2)
    scores = peer.prepare(batch)()
    assert scores.shape == (2, 521)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_the_command_writes_where_it_is_told_and_says_what_is_wrong(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, bundle = folders
    flags = ["--device", "cpu", "--bundle", str(bundle), "--batches", "1", "--rounds", "1", "--lasting", "0", "--peers", ""]
    flags += ["--clips", str(REPOSITORY / "examples"), "--output", str(tmp_path / "out")]
    assert main([*flags, "--checkpoint", str(checkpoint)]) == exit_codes.OK
    assert "| Sonotag fp32" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {JSON_FILE, MARKDOWN_FILE, SPEED_PLOT, SPREAD_PLOT}
    assert main([*flags, "--checkpoint", str(tmp_path / "missing")]) == exit_codes.FAILURE
    assert "bench: there is no checkpoint" in capsys.readouterr().err


def test_what_the_service_was_measured_at_is_drawn(tmp_path: Path) -> None:
    draw_lag(make_report(make_stage(24), make_stage(32, "lag")).to_document(), tmp_path / "lag.png")
    assert (tmp_path / "lag.png").read_bytes().startswith(b"\x89PNG")
