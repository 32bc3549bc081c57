"""Broken files of every container, made of what real encoders write."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.support.sounds import encode, tone

RATE = 16_000

ENCODERS: dict[str, tuple[str, ...]] = {
    "clip.wav": ("-c:a", "pcm_s16le"),
    "float.wav": ("-c:a", "pcm_f32le"),
    "clip.rf64.wav": ("-c:a", "pcm_s16le", "-rf64", "always"),
    "clip.w64": (),
    "clip.aiff": (),
    "clip.au": (),
    "clip.caf": (),
    "clip.flac": (),
    "clip.ogg": ("-c:a", "libvorbis"),
    "clip.opus": ("-c:a", "libopus"),
    "clip.mp3": (),
    "clip.webm": ("-c:a", "libopus"),
    "clip.m4a": (),
    "fast.m4a": ("-movflags", "+faststart"),
    "pieces.mp4": ("-movflags", "+frag_keyframe+empty_moov"),
    "alac.m4a": ("-c:a", "alac"),
    "clip.aac": ("-f", "adts"),
    "clip.ac3": (),
    "clip.wma": (),
    "clip.ts": (),
    "clip.avi": (),
    "clip.flv": ("-ar", "44100"),
    "clip.wv": (),
    "clip.tta": (),
}
"""Files by their names, and what ffmpeg needs to be told."""


def real_files(folder: Path, seconds: float = 1.5) -> dict[str, bytes]:
    """Encode one sound with every encoder; return the files' bytes by name."""
    waveform = tone(seconds, 440.0, RATE)
    return {name: encode(folder, waveform, RATE, name, *arguments).read_bytes() for name, arguments in ENCODERS.items()}


LIMITS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1")
"""The smallest and the largest number, of either byte order."""


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield variants of a file: cut, with bits flipped, with numbers replaced, pieces doubled, moved or left out."""
    draw = random.Random(seed)
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5, 30))):
            _damage(broken, draw)
        yield bytes(broken)


def _damage(data: bytearray, draw: random.Random) -> None:
    if not data:
        return
    # Headers are short and say the most: half of the damage is there.
    at = draw.randrange(min(len(data), 256) if draw.random() < 0.5 else len(data))
    match draw.randrange(7):
        case 0:
            del data[at:]
        case 1:
            data[at] ^= 1 << draw.randrange(8)
        case 2:
            data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 3:
            data[at : at + 4] = draw.choice(LIMITS)
        case 4:
            data[at:at] = data[at : at + draw.randrange(1, 64)]
        case 5:
            del data[at : at + draw.randrange(1, 64)]
        case 6:
            data[at:at] = draw.randbytes(draw.randrange(1, 16))


_TEXT = b"\x02\0\x0aonTextData\x08\0\0\0\1\0\4text\x02\0\5hello\0\0\x09"
FLV_TEXT = b"\x12" + len(_TEXT).to_bytes(3, "big") + bytes(7) + _TEXT + (11 + len(_TEXT)).to_bytes(4, "big")
"""A tag of an FLV that makes FFmpeg find a stream of subtitles in it. Source: Adobe, FLV 10.1, annex E."""


def special_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files with one particular thing wrong, made of real ones by hand."""
    wav, flac, mp3, webm = files["clip.wav"], files["clip.flac"], files["clip.mp3"], files["clip.webm"]
    not_a_number = struct.pack("<f", float("nan")) * 8_000
    infinite = struct.pack("<f", float("inf")) * 8_000
    return {
        "empty": b"",
        "one byte": b"R",
        "no sound": bytes(range(256)) * 40,
        "zeros": bytes(10_000),
        "wav of 0 Hz": wav_file(sample_rate=0),
        "wav of 4 GHz": wav_file(sample_rate=2**32 - 1),
        "wav of 1 Hz": wav_file(sample_rate=1),
        "wav of no channels": wav_file(channels=0),
        "wav of 255 channels": wav_file(channels=255),
        "wav of 65535 channels": wav_file(channels=65_535),
        "wav of 0 bits": wav_file(bits=0),
        "wav of 65535 bits": wav_file(bits=65_535),
        "wav that claims ten hours": wav_file(claimed_bytes=10 * 3600 * RATE * 2),
        "wav that claims 4 GB": wav_file(claimed_bytes=2**32 - 1),
        "wav of NaN": wav_file(encoding=3, bits=32, samples=not_a_number),
        "wav of infinity": wav_file(encoding=3, bits=32, samples=infinite),
        "wav of an unknown codec": wav_file(encoding=0xABCD),
        "wav without data": wav[:44],
        "wav with a tag of 4 GB": wav[:12] + b"LIST" + struct.pack("<I", 2**32 - 1) + wav[12:],
        "wav with ten thousand tags": wav[:12] + (b"LIST" + struct.pack("<I", 4) + b"INFO") * 10_000 + wav[12:],
        "wav called aiff": b"FORM" + wav[4:8] + b"AIFF" + wav[12:],
        "flac with endless padding": flac[:42] + (b"\x01" + (200_000).to_bytes(3, "big") + bytes(200_000)) * 20,
        "flac of 0 Hz": flac[:18] + bytes(3) + flac[21:],
        "flac that claims 2^36 samples": flac[:21] + b"\xff\xff\xff\xff\xff" + flac[26:],
        "mp3 after endless tags": (b"ID3\x04\0\0" + b"\0\0\x01\0" + bytes(128)) * 2_000 + mp3,
        "mp3 after a tag of 256 MB": b"ID3\x04\0\0" + b"\x7f\x7f\x7f\x7f" + mp3,
        "mp4 that claims 80 million samples": greedy_mp4(80_000_000),
        "mp4 that claims 60 million sizes": hungry_mp4(files["fast.m4a"]),
        "mp4 of nested boxes": nested_boxes(2_000),
        "flv with subtitles": files["clip.flv"][:13] + FLV_TEXT + files["clip.flv"][13:],
        "ogg of empty pages": files["clip.ogg"][:28].ljust(28, b"\0") * 5_000,
        "webm of nested elements": webm[:40] + (b"\x18\x53\x80\x67" + b"\x01\xff\xff\xff\xff\xff\xff\xff") * 1_000,
    }


def wav_file(
    *,
    sample_rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    encoding: int = 1,
    samples: bytes | None = None,
    claimed_bytes: int | None = None,
) -> bytes:
    """Return a WAV whose header says exactly this, whatever it means."""
    body = np.zeros(RATE, np.int16).tobytes() if samples is None else samples
    frame = channels * bits // 8 & 0xFFFF
    head = struct.pack("<HHIIHH", encoding, channels, sample_rate, sample_rate * frame & 0xFFFFFFFF, frame, bits)
    size = len(body) if claimed_bytes is None else claimed_bytes
    riff = struct.pack("<I", min(36 + size, 2**32 - 1))
    return b"RIFF" + riff + b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + body


def box(kind: bytes, *content: bytes) -> bytes:
    """Return a box of an MP4. Source: ISO/IEC 14496-12, 4.2."""
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def greedy_mp4(num_samples: int) -> bytes:
    """Return a small MP4 of PCM whose index claims a number of samples of one byte each. FFmpeg makes an entry for each."""
    version = bytes(4)
    entry = box(b"sowt", bytes(6), b"\0\1", bytes(8), b"\0\1\0\x10", bytes(4), struct.pack(">I", RATE << 16))
    table = box(
        b"stbl",
        box(b"stsd", version, struct.pack(">I", 1), entry),
        box(b"stts", version, struct.pack(">III", 2, num_samples - 1, 1) + struct.pack(">II", 1, 2)),
        box(b"stsc", version, struct.pack(">IIII", 1, 1, 1, 1)),
        box(b"stsz", version, struct.pack(">II", 2, num_samples)),
        box(b"stco", version, struct.pack(">I", 16_000), struct.pack(">I", 40) * 16_000),
    )
    media = box(
        b"mdia",
        box(b"mdhd", version, bytes(8), struct.pack(">IIHH", RATE, num_samples, 0x55C4, 0)),
        box(b"hdlr", version, bytes(4), b"soun", bytes(13)),
        box(b"minf", box(b"smhd", bytes(8)), table),
    )
    header = box(b"mvhd", version, bytes(8), struct.pack(">II", RATE, num_samples), bytes(80))
    track = box(b"trak", box(b"tkhd", b"\0\0\0\1", bytes(8), struct.pack(">I", 1), bytes(68)), media)
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(b"moov", header, track) + box(b"mdat", bytes(1_000))


def hungry_mp4(whole: bytes) -> bytes:
    """Return an MP4 whose table of sizes claims 60 million entries. FFmpeg takes 480 MB for it before it reads them."""
    at = whole.index(b"stsz") + 12
    return whole[:at] + struct.pack(">I", 60_000_000) + whole[at + 4 :]


def nested_boxes(depth: int) -> bytes:
    """Return an MP4 whose index is a box in a box in a box."""
    content = b""
    for _ in range(depth):
        content = box(b"moov", content)
    return box(b"ftyp", b"isom", bytes(4), b"isom") + content + box(b"mdat", bytes(100))
