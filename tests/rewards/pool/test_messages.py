from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.rewards.pool.messages import GarbledError, Packet, PacketReader

FRAMES = st.lists(
    st.builds(
        Packet,
        st.binary(min_size=1, max_size=1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=50),
    ),
    max_size=5,
)


@given(FRAMES, st.integers(1, 30))
def test_packets_come_whole_however_they_are_cut(packets: list[Packet], size: int) -> None:
    data = b"".join(packet.to_bytes() for packet in packets)
    reader = PacketReader()
    found = [packet for n in range(0, len(data), size) for packet in reader.feed(data[n : n + size])]
    assert found == packets


@given(FRAMES, st.binary(min_size=1))
def test_stray_bytes_are_an_error_and_never_a_packet(packets: list[Packet], stray: bytes) -> None:
    """At the latest with the packet behind them; only the beginning of a packet may wait for its rest."""
    reader = PacketReader()
    for packet in packets:
        assert reader.feed(packet.to_bytes()) == [packet]
    with pytest.raises(GarbledError):
        reader.feed(b"x" + stray)


def test_a_length_beyond_the_bound_is_refused_before_its_payload_comes() -> None:
    packet = Packet(b"O", 1, 2, b"four")
    assert PacketReader(max_payload=4).feed(packet.to_bytes()) == [packet]
    with pytest.raises(GarbledError, match="4 bytes"):
        PacketReader(max_payload=3).feed(packet.to_bytes()[:-4])
