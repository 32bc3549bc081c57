from __future__ import annotations

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame

from service.audio.frames import FrameReader, to_float
from service.errors import UnsupportedAudio


def frame(format: str, layout: str, values: np.ndarray) -> AudioFrame:
    """A frame of `[n, channels]`, written the way the format wants it."""
    kind = format.removesuffix("p")
    packed = AudioFrame.from_ndarray(np.ascontiguousarray(values).reshape(1, -1), format=kind, layout=layout)
    packed.sample_rate = 48_000
    # PyAV cannot make planes of eight channels or more from an array either.
    return packed if kind == format else av.AudioResampler(format=format).resample(packed)[0]


@pytest.mark.parametrize(
    ("format", "dtype", "silence", "full_scale"),
    [
        ("u8", np.uint8, 128, 2**7),
        ("s16", np.int16, 0, 2**15),
        ("s32", np.int32, 0, 2**31),
        ("flt", np.float32, 0, 1),
        ("dbl", np.float64, 0, 1),
    ],
)
@pytest.mark.parametrize("suffix", ["", "p"])
def test_every_kind_of_sample_is_scaled_to_full_scale(
    format: str, suffix: str, dtype: type, silence: int, full_scale: int
) -> None:
    wanted = np.array([[-1.0, 0.5], [0.0, -0.25], [0.75, 0.0]])
    values = (wanted * full_scale + silence).astype(dtype)
    np.testing.assert_array_equal(to_float(FrameReader().read(frame(format + suffix, "stereo", values))), wanted)


@pytest.mark.parametrize("format", ["flt", "fltp"])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("5.1", 6), ("6.1", 7), ("7.1", 8), ("hexadecagonal", 16)])
def test_any_number_of_channels_is_read_unchanged(format: str, layout: str, channels: int) -> None:
    values = np.random.default_rng(channels).standard_normal((100, channels)).astype(np.float32)
    reader = FrameReader()
    for _ in range(3):
        np.testing.assert_array_equal(reader.read(frame(format, layout, values)), values)


def test_wide_frames_may_change_their_layout_on_the_way() -> None:
    reader = FrameReader()
    for layout, channels in (("7.1", 8), ("hexadecagonal", 16), ("stereo", 2), ("7.1", 8)):
        values = np.random.default_rng(channels).standard_normal((50, channels)).astype(np.float32)
        np.testing.assert_array_equal(reader.read(frame("fltp", layout, values)), values)


def test_a_double_that_float32_cannot_hold_becomes_infinite_without_a_warning() -> None:
    assert np.isposinf(to_float(FrameReader().read(frame("dbl", "mono", np.array([[1e300]]))))).all()


def test_a_kind_of_sample_that_is_not_read_is_named() -> None:
    with pytest.raises(UnsupportedAudio, match="of the kind s64"):
        FrameReader().read(av.AudioFrame(format="s64", layout="mono", samples=4))
