from __future__ import annotations

import pytest

from service.audio.formats import HEAD_BYTES
from service.audio.recognition import IndexScanner, Recogniser
from service.errors import UnsupportedAudio

WAV = b"RIFF\x24\0\0\0WAVEfmt "
MP3_FRAME = b"\xff\xfb\x90\x64" + bytes(413)


def tag(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + b"x" * size


def recognise(data: bytes, step: int) -> tuple[Recogniser, int]:
    """Push until it knows; return it with the number of bytes that took."""
    recogniser = Recogniser()
    for end in range(step, len(data) + step, step):
        if recogniser.push(data[end - step : end]) is not None:
            return recogniser, min(end, len(data))
    recogniser.finish()
    return recogniser, len(data)


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_a_container_is_known_as_soon_as_its_start_tells(step: int) -> None:
    recogniser, num_bytes = recognise(WAV + bytes(100), step)
    assert recogniser.container == "wav"
    assert num_bytes == {1: 12, 3: 12, 10_000: 116}[step]
    assert bytes(recogniser.head) == (WAV + bytes(100))[:num_bytes]


@pytest.mark.parametrize(
    ("data", "container"),
    [
        (b"\xff\xf8\x52\x70mdatpF\0\xff\xff\xff\xff\0", "mp4"),  # its first seven bytes are the head of an ADTS frame
        (b"RIFFmdatWAVEfmt ", "wav"),  # its first eight are a box of an MP4
    ],
)
@pytest.mark.parametrize("step", [1, 4, 7, 8, 10_000])
def test_what_could_be_two_things_is_the_same_in_any_pieces(data: bytes, container: str, step: int) -> None:
    recogniser, _ = recognise(data + bytes(100), step)
    assert recogniser.container == container


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("tags", [tag(5), tag(300) + tag(0) + tag(20_000)])
def test_id3_tags_are_stepped_over(tags: bytes, step: int) -> None:
    recogniser, num_bytes = recognise(tags + WAV, step)
    assert recogniser.container == "wav"
    assert recogniser.offset == len(tags)
    assert bytes(recogniser.head) == (tags + WAV)[len(tags) : num_bytes]


def test_an_unclear_start_waits_for_the_whole_head() -> None:
    data = bytes(100) + MP3_FRAME * 12
    recogniser, num_bytes = recognise(data, 1)
    assert recogniser.container == "mp3"
    assert num_bytes == HEAD_BYTES


def test_an_unclear_start_is_judged_at_the_end_where_that_comes_first() -> None:
    recogniser, num_bytes = recognise(bytes(100) + MP3_FRAME * 2, 50)
    assert recogniser.container == "mp3"
    assert num_bytes == 100 + 834


@pytest.mark.parametrize("step", [1, 10_000])
def test_unknown_bytes_are_refused_with_their_start_and_what_would_do(step: int) -> None:
    with pytest.raises(UnsupportedAudio, match=r"25 50 44 46 .* readable are WAV, FLAC"):
        recognise(b"%PDF-1.7" + bytes(HEAD_BYTES), step)


def test_nothing_is_refused_as_nothing() -> None:
    with pytest.raises(UnsupportedAudio, match="it is empty"):
        Recogniser().finish()
    with pytest.raises(UnsupportedAudio, match="nothing stands after the ID3 tag"):
        recognise(tag(100), 10)
    with pytest.raises(UnsupportedAudio, match="nothing stands after the ID3 tag"):
        recognise(tag(100)[:50], 10)


def test_the_start_of_what_may_become_a_tag_is_waited_for() -> None:
    recogniser = Recogniser()
    assert recogniser.push(b"ID") is None
    with pytest.raises(UnsupportedAudio, match="'ID'"):
        recogniser.finish()


def box(kind: bytes, size: int = 8, *, is_large: bool = False) -> bytes:
    if is_large:
        return b"\0\0\0\x01" + kind + size.to_bytes(8, "big") + bytes(max(0, size - 16))
    return size.to_bytes(4, "big") + kind + bytes(max(0, size - 8))


@pytest.mark.parametrize("step", [1, 5, 100_000])
@pytest.mark.parametrize(
    ("boxes", "place"),
    [
        (box(b"ftyp", 28) + box(b"moov", 100), "first"),
        (box(b"ftyp", 28) + box(b"free", 70_000) + box(b"moov", 100), "first"),
        (box(b"styp", 28) + box(b"moof", 100), "first"),
        (box(b"ftyp", 28) + box(b"free") + box(b"mdat", 100), "last"),
        (box(b"ftyp", 28) + box(b"mdat", 0), "last"),
        (box(b"ftyp", 28) + box(b"mdat", 5_000_000_000, is_large=True)[:16], "last"),
        (box(b"ftyp", 28, is_large=True) + box(b"mdat", 16, is_large=True) + box(b"moov", 100), "first"),
        (box(b"ftyp", 28) + box(b"mdat", 8) + box(b"moov", 100), "first"),
        (box(b"ftyp", 28) + box(b"free", 7), "first"),
        (box(b"ftyp", 28) + box(b"free", 0), "first"),
        (box(b"ftyp", 28) + box(b"free", 100), None),
        (box(b"ftyp", 28)[:20], None),
        (b"", None),
    ],
)
def test_the_boxes_tell_where_the_index_is(boxes: bytes, place: str | None, step: int) -> None:
    scanner = IndexScanner()
    for start in range(0, len(boxes), step):
        scanner.push(boxes[start : start + step])
    assert scanner.place == place


def test_a_large_mdat_is_judged_by_its_header() -> None:
    scanner = IndexScanner()
    assert scanner.push(box(b"ftyp", 28) + b"\0\x10\0\0mda") is None
    assert scanner.push(b"t") == "last"
