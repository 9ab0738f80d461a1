from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.rewards.pool.messages import Frame, FrameReader, GarbledError

FRAMES = st.lists(
    st.builds(
        Frame,
        st.binary(min_size=1, max_size=1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=50),
    ),
    max_size=5,
)


@given(FRAMES, st.integers(1, 30))
def test_frames_come_whole_however_they_are_cut(frames: list[Frame], size: int) -> None:
    data = b"".join(frame.to_bytes() for frame in frames)
    reader = FrameReader()
    found = [frame for n in range(0, len(data), size) for frame in reader.feed(data[n : n + size])]
    assert found == frames


@given(FRAMES, st.binary(min_size=1))
def test_stray_bytes_are_an_error_and_never_a_frame(frames: list[Frame], stray: bytes) -> None:
    """At the latest with the frame behind them; only the beginning of a frame may wait for its rest."""
    reader = FrameReader()
    for frame in frames:
        assert reader.feed(frame.to_bytes()) == [frame]
    with pytest.raises(GarbledError):
        reader.feed(b"x" + stray)


def test_a_length_beyond_the_bound_is_refused_before_its_payload_comes() -> None:
    frame = Frame(b"O", 1, 2, b"four")
    assert FrameReader(max_payload=4).feed(frame.to_bytes()) == [frame]
    with pytest.raises(GarbledError, match="4 bytes"):
        FrameReader(max_payload=3).feed(frame.to_bytes()[:-4])
