from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.errors import ExportError
from export.evaluate import Clip, average_precision, compare_scores, cut_pieces, macro_map, read_clips, top_1
from export.signals import Signal
from export.verify import is_kept

SILENCE = Signal("x", np.zeros(400, np.int16))


def make_clips(*label_ids: int | None) -> tuple[Clip, ...]:
    return tuple(Clip(SILENCE, label_id) for label_id in label_ids)


def test_average_precision_is_the_mean_precision_at_each_hit() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert average_precision(scores, np.array([True, False, True, False])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(scores, np.array([False, False, False, True])) == pytest.approx(1 / 4)


def test_equal_scores_count_against_the_model() -> None:
    assert average_precision(np.zeros(4, np.float32), np.array([True, False, False, False])) == pytest.approx(1 / 4)


def test_macro_map_is_over_the_labels_that_occur_and_the_clips_that_have_one() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.0], [0.8, 0.2, 0.0], [1.0, 1.0, 1.0]], np.float32)
    clips = make_clips(0, 1, 1, None)
    assert macro_map(scores, clips) == pytest.approx((1.0 + 1.0) / 2)
    assert macro_map(scores, make_clips(1, 0, 0, None)) == pytest.approx((1 / 3 + (1 / 2 + 2 / 3) / 2) / 2)


def test_top_1_is_among_the_labels_that_occur_and_over_the_clips_that_have_one() -> None:
    scores = np.array([[0.5, 0.4, 0.9], [0.1, 0.2, 0.9], [0.3, 0.2, 0.9], [1.0, 0.0, 0.9]], np.float32)
    assert top_1(scores, make_clips(0, 1, 1, None)) == pytest.approx(2 / 3)


def test_clips_are_cut_into_pieces_that_can_be_heard() -> None:
    samples = np.zeros(40_000, np.int16)
    samples[16_000:20_000], samples[32_000:] = 3_000, 4_000
    clips = (Clip(Signal("x", samples), 1), Clip(Signal("y", samples), None))
    pieces = cut_pieces(clips, 8_000)
    assert [(piece.signal.samples[0], piece.label_id) for piece in pieces] == [(3_000, 1), (4_000, 1)]
    assert [len(piece.signal.samples) for piece in cut_pieces(clips, 20_000)] == [20_000, 20_000]


def test_the_gates_of_int8_hold_for_equal_scores_and_not_for_others() -> None:
    scores = np.eye(4, dtype=np.float32)
    clips = make_clips(0, 1, 2, 3)
    assert all(is_kept(check) for check in compare_scores(scores, scores, clips))
    turned = scores.copy()
    turned[0] = scores[1]
    broken = {check.check for check in compare_scores(turned, scores, clips) if not is_kept(check)}
    assert broken == {"top-1 agreement", "macro mAP difference"}


def test_clips_are_read_resampled_and_matched_to_the_column_that_the_model_knows(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((8_000, 2), 0.5), 8_000)
    soundfile.write(tmp_path / "b.flac", np.zeros(16_000), 16_000)
    (tmp_path / "clips.csv").write_text("file,category,audioset_label\na.wav,dog,Bark\nb.flac,wind,\n")
    clips = read_clips(tmp_path, ("Silence", "bark"))
    assert [clip.label_id for clip in clips] == [1, None]
    assert len(clips[0].signal.samples) == 16_000
    assert np.abs(clips[0].signal.samples[4_000:12_000].astype(int) - 16_384).max() < 300
    assert [clip.label_id for clip in read_clips(tmp_path, ("wind", "DOG"))] == [1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"clips\.csv cannot be read"),
        ("", "lists no clips"),
        ("name,label\na,b\n", "lists no clips"),
        ("file,label\na.wav,Cat\n", "no clip .* has a label"),
        ("file,colour\na.wav,red\n", "no clip .* has a label"),
        ("file,label\nnone.wav,Dog\n", r"none\.wav cannot be read"),
        ("file,label\nshort.wav,Dog\n", r"short\.wav has 100 samples"),
    ],
)
def test_a_folder_that_cannot_be_evaluated_is_refused(tmp_path: Path, table: str | None, message: str) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    if table is not None:
        (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(ExportError, match=message):
        read_clips(tmp_path, ("Dog",))
