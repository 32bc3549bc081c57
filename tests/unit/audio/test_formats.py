from __future__ import annotations

import pytest

from service.audio.formats import HEAD_BYTES, RawFormat, id3_length, sniff, sniff_start
from service.errors import InvalidParameter

# MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes. ADTS: AAC-LC, 44.1 kHz, stereo, 100 bytes.
MP3_FRAME = b"\xff\xfb\x90\x64" + bytes(413)
ADTS_FRAME = b"\xff\xf1\x50\x80\x0c\x9f\xfc" + bytes(93)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"RIFX\0\0\0\x24WAVEfmt ", "wav"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "rf64"),
        (b"RIFF\x24\0\0\0AVI LIST", "avi"),
        (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", "w64"),
        (b"FORM\0\0\0\x24AIFFCOMM", "aiff"),
        (b"FORM\0\0\0\x24AIFCFVER", "aiff"),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"OggS\0\x02", "ogg"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81", "webm"),
        (b"\0\0\0\x1cftypM4A ", "mp4"),
        (b"\0\0\x01\0moov", "mp4"),
        (b".snd\0\0\0\x18", "au"),
        (b"caff\0\x01\0\0", "caf"),
        (b"#!AMR\n\x3c", "amr"),
        (b"#!AMR-WB\n", "amr"),
        (b"\x0b\x77\x12\x34", "ac3"),
        (b"wvpk\0\0\0\0", "wavpack"),
        (MP3_FRAME, "mp3"),
        (b"\xff\xf3\x40\xc4", "mp3"),
        (b"\xff\xe3\x18\xc4", "mp3"),
        (b"\xff\xfd\x90\x04", "mp3"),
        (ADTS_FRAME, "aac"),
        ((b"\x47" + bytes(187)) * 3, "mpegts"),
    ],
)
def test_the_first_bytes_tell_the_container(head: bytes, container: str) -> None:
    assert sniff(head.ljust(12, b"\0")) == container
    assert sniff_start(head.ljust(12, b"\0")) == container


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"FORM\0\0\0\x24ILBM",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"%PDF-1.7",
        b"#EXTM3U\nhttp://example.org/a.mp3\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        "\ufeffRecording".encode("utf-16"),
        b"<html><body>404</body></html>",
        b'{"type": "start"}',
        b"\xff\xfb\xf0\x64" + bytes(413),  # bit rate index 15 is forbidden
        b"\xff\xfb\x9c\x64" + bytes(413),  # sample rate index 3 is reserved
        b"\xff\xeb\x90\x64" + bytes(413),  # version 1 is reserved
        b"\xff\xf1\x74\x80\x0c\x9f\xfc" + bytes(93),  # ADTS with a sampling frequency index of 13
        b"\xff\xf1\x50\x80\x00\x1f\xfc" + bytes(93),  # ADTS with a frame shorter than its header
        bytes(HEAD_BYTES),
    ],
)
def test_what_is_no_sound_is_unknown(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize(("frame", "container"), [(MP3_FRAME, "mp3"), (ADTS_FRAME, "aac")])
def test_frames_are_found_after_the_rest_of_a_cut_one(frame: bytes, container: str) -> None:
    rest = b"\xff\x00\x12\xff" * 50
    assert sniff(rest + frame + frame) == container
    assert sniff(rest + frame) is None, "one header may be chance"
    assert sniff_start(rest + frame + frame) is None


def test_frames_are_looked_for_in_the_head_only() -> None:
    assert sniff(bytes(HEAD_BYTES) + MP3_FRAME * 3) is None
    assert sniff(bytes(HEAD_BYTES - 2 * len(MP3_FRAME)) + MP3_FRAME * 3) == "mp3"


def test_frames_of_mpeg_2_layer_3_are_half_as_long() -> None:
    frame = b"\xff\xf3\x82\xc4" + bytes(205)  # 64 kbit/s at 22.05 kHz with padding: 72 * 64000 // 22050 + 1 = 209 bytes
    assert sniff(b"\0" + frame + frame) == "mp3"


def test_the_length_of_an_id3_tag_counts_header_and_footer() -> None:
    assert id3_length(b"ID3\x04\0\0\0\0\x02\x01rest") == 10 + 257
    assert id3_length(b"ID3\x04\0\x10\0\0\x02\x01rest") == 10 + 257 + 10


@pytest.mark.parametrize(
    "head", [b"", b"ID3\x04\0\0\0\0\0", b"ID4\x04\0\0\0\0\x02\x01", b"ID3\xff\0\0\0\0\x02\x01", b"ID3\x04\0\0\0\0\x80\x01"]
)
def test_what_is_no_whole_id3_header_has_no_length(head: bytes) -> None:
    assert id3_length(head) == 0


def test_a_raw_format_knows_the_bytes_of_a_frame() -> None:
    assert RawFormat("s16le", 16_000, 1).frame_bytes == 2
    assert RawFormat("f32le", 192_000, 8).frame_bytes == 32
    assert RawFormat("mulaw", 4_000, 2).frame_bytes == 2


@pytest.mark.parametrize(
    ("encoding", "sample_rate", "channels", "param", "says"),
    [
        ("s24le", 16_000, 1, "encoding", "'s24le', allowed are s16le, s32le, f32le, mulaw, alaw"),
        ("s16le", 3_999, 1, "sample_rate", "3999 Hz, allowed is 4000 to 192000"),
        ("s16le", 192_001, 1, "sample_rate", "192001 Hz"),
        ("s16le", 16_000, 0, "channels", "0, allowed is 1 to 8"),
        ("s16le", 16_000, 9, "channels", "9, allowed is 1 to 8"),
    ],
)
def test_a_raw_format_out_of_range_names_its_parameter(
    encoding: str, sample_rate: int, channels: int, param: str, says: str
) -> None:
    with pytest.raises(InvalidParameter, match=says) as caught:
        RawFormat(encoding, sample_rate, channels)  # type: ignore[arg-type]
    assert caught.value.param == param
