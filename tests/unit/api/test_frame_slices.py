from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from service.api.frame_slices import FrameSlicer

SIZES = st.sampled_from([0, 1, 2, 125, 126, 127, 1_000, 65_535, 65_536, 70_000])
CUTS = st.lists(st.integers(1, 3_000), min_size=1, max_size=20)


def frames_of(sizes: list[int], *, mask: bool) -> list[bytes]:
    return [Frame(Opcode.BINARY, bytes(size)).serialize(mask=mask) for size in sizes]


@settings(deadline=None)
@given(sizes=st.lists(SIZES, max_size=12), cuts=CUTS, mask=st.booleans(), max_frames=st.integers(1, 5))
def test_slices_are_all_that_came_and_each_has_few_frames(
    sizes: list[int], cuts: list[int], mask: bool, max_frames: int
) -> None:
    frames = frames_of(sizes, mask=mask)
    whole = b"".join(frames)
    slicer, kept, sliced, num_begun, place = FrameSlicer(max_frames), bytearray(), bytearray(), 0, 0
    while place < len(whole):
        for size in cuts:
            kept += whole[place : place + size]
            place += size
            while slicer.has_more(kept):
                num_bytes, num_frames = slicer.cut(kept)
                assert num_bytes > 0
                assert num_frames <= max_frames
                num_begun += num_frames
                sliced += kept[:num_bytes]
                del kept[:num_bytes]
    assert bytes(sliced) == whole
    assert num_begun == len(frames)


def test_a_head_that_is_not_whole_waits_for_the_rest_of_it() -> None:
    [frame] = frames_of([300], mask=True)
    slicer = FrameSlicer(64)
    assert slicer.cut(frame[:3]) == (0, 0)
    assert not slicer.has_more(frame[:3])
    assert slicer.cut(frame[:5]) == (5, 1)
    assert slicer.cut(frame[5:]) == (len(frame) - 5, 0)


def test_a_long_frame_is_passed_on_as_it_comes() -> None:
    [frame] = frames_of([1_000_000], mask=True)
    slicer = FrameSlicer(64)
    assert slicer.cut(frame[:400_000]) == (400_000, 1)
    assert slicer.cut(frame[400_000:]) == (len(frame) - 400_000, 0)
