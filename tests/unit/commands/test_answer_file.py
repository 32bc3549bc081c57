from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from pyarrow import parquet

from service.answers import ClipAnswer, ErrorBody, EventItem
from service.commands.answer_file import check_output, open_answers, partial_path
from service.commands.clip_output import CSV_COLUMNS
from service.errors import InvalidParameter
from service.streaming.messages import TagItem

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")


def answer(label: str, score: float = 0.5) -> ClipAnswer:
    return ClipAnswer(
        model="fake",
        duration=2.0,
        tags=(TagItem(label=label, id=0, score=score), TagItem(label='a "b", c', id=1, score=0.25)),
        events=(EventItem(label=label, onset=0.5, offset=1.5, peak=0.75),),
    )


FAILED = ErrorBody(code="unsupported_audio", message="no sound, says the\nerror")


EVENTS = frozenset({"events"})


def add(
    path: Path, *files: str, failed: str | None = None, finish: bool = True, left_out: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Write answers as a run does; return what was there before it."""
    with closing(open_answers(path, EVENTS - left_out)) as answers:
        for file in files:
            whole = answer(f"label of {file}")
            answers.write(answers.output.answer(file, whole.model_copy(update=dict.fromkeys(left_out))))
        if failed:
            answers.write(answers.output.error(failed, FAILED))
        if finish:
            answers.finish()
        return answers.done


def whole(path: Path) -> object:
    """Return what a reader finds."""
    return parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_that_goes_on_ends_as_one_that_was_never_interrupted(suffix: str, tmp_path: Path) -> None:
    at_once, in_two = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    assert add(at_once, "1.wav", "zwölf, 2.wav", "3.wav") == frozenset()
    add(in_two, "1.wav", "zwölf, 2.wav", failed="bad.wav", finish=False)
    assert add(in_two, "3.wav") == {"1.wav", "zwölf, 2.wav"}
    assert whole(in_two) == whole(at_once)
    assert add(in_two) == {"1.wav", "zwölf, 2.wav", "3.wav"}
    assert whole(in_two) == whole(at_once)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([at_once.name, in_two.name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_errors_are_in_the_file_until_the_sound_is_tried_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    add(path, "1.wav", failed="bad.wav")
    assert "no sound, says" in str(whole(path))
    assert add(path, "bad.wav") == {"1.wav"}
    assert "no sound, says" not in str(whole(path))
    assert add(path) == {"1.wav", "bad.wav"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_cut_off_at_any_byte_is_scored_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    text_path = partial_path(path) if suffix == ".parquet" else path
    add(path, "1.wav", finish=False)
    first = text_path.stat().st_size
    add(path, "zwölf.wav", finish=False)
    data = text_path.read_bytes()
    for size in range(first + 1, len(data)):
        if data[size - 1 : size] == b"\n":
            continue  # the end of a row: a system writes no less than a page, so this is not where it is cut
        text_path.write_bytes(data[:size])
        assert add(path, "zwölf.wav", finish=False) == {"1.wav"}
        assert text_path.read_bytes() == data


def test_parquet_has_the_columns_of_csv_with_types(tmp_path: Path) -> None:
    add(tmp_path / "x.parquet", "1.wav", failed="bad.wav")
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [tuple(row.values()) for row in rows] == [
        ("1.wav", "clip", 0.0, 2.0, "label of 1.wav", 0.5, None),
        ("1.wav", "clip", 0.0, 2.0, 'a "b", c', 0.25, None),
        ("1.wav", "event", 0.5, 1.5, "label of 1.wav", 0.75, None),
        ("bad.wav", "error", None, None, None, None, FAILED.message),
    ]


def test_an_answer_with_the_word_error_in_it_is_no_error(tmp_path: Path) -> None:
    file = 'a "error": b.wav'
    add(tmp_path / "x.parquet", file, '{"error": 1}')
    assert add(tmp_path / "x.parquet") == {file, '{"error": 1}'}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_somebody_else_wrote_is_left_as_it_is(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    for data in (b"name,age\nSonja,31\n", json.dumps({"name": "x"}).encode() + b"\n", b"[1, 2]\n"):
        path.write_bytes(data)
        with pytest.raises(InvalidParameter, match="x\\."):
            open_answers(path, EVENTS).close()
        assert path.read_bytes() == data


def test_another_parquet_file_is_left_as_it_is(tmp_path: Path) -> None:
    import pyarrow

    parquet.write_table(pyarrow.table({"file": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(InvalidParameter, match="not written by sonotag classify"):
        open_answers(tmp_path / "x.parquet", EVENTS)


def test_a_name_tells_the_format_and_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"\.csv, \.jsonl, \.ndjson, \.parquet"):
        check_output(tmp_path / "x.txt", resume=False)
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix}"
        check_output(path, resume=False)
        add(path, "1.wav", finish=False)
        check_output(path, resume=True)
        with pytest.raises(InvalidParameter, match="--resume"):
            check_output(path, resume=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("finish", [True, False])
def test_a_file_that_was_made_with_other_flags_is_not_gone_on_with(suffix: str, finish: bool, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    add(path, "1.wav", finish=finish)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InvalidParameter, match="it was made with --events; the flags must be the same"):
        open_answers(path, frozenset())
    with pytest.raises(InvalidParameter, match="it was made without --timeline"):
        open_answers(path, EVENTS | {"windows"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_events_that_may_only_not_have_been_found_are_told_of_where_nothing_else_tells(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    add(path, "1.wav", left_out=EVENTS)
    if suffix in (".csv", ".parquet"):
        with closing(open_answers(path, EVENTS)) as answers:
            assert answers.doubt.startswith("there is no event in it yet")
    else:
        with pytest.raises(InvalidParameter, match="it was made without --events"):
            open_answers(path, EVENTS)
    with closing(open_answers(path, frozenset())) as answers:
        assert (answers.done, answers.doubt) == ({"1.wav"}, "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_an_answer_takes_any(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    add(path, failed="bad.wav")
    with closing(open_answers(path, EVENTS | {"windows"})) as answers:
        assert (answers.done, answers.doubt) == (frozenset(), "")
