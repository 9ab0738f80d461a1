"""Messages of the scoring processes: length-prefixed, bounded, each with its unit's number and its sender's pid.

A reader never waits for the rest of a message, so stray bytes cannot hang it: it feeds the bytes that have arrived and
gets whole packets, or the error that ends the stream.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAX_PAYLOAD = 16 * 2**20
"""Bytes of an outcome; a batch's longest is below 100 kB."""

_MAGIC = b"\x89gpg"
_HEADER = struct.Struct("<4scIII")


class GarbledError(Exception):
    """The bytes are not a packet: something else wrote to the stream."""


@dataclass(frozen=True, slots=True)
class Packet:
    kind: bytes  # one byte
    unit: int
    pid: int  # of the process that speaks
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        return _HEADER.pack(_MAGIC, self.kind, self.unit, self.pid, len(self.payload)) + self.payload


@dataclass(slots=True)
class PacketReader:
    """Collects the bytes of one stream."""

    max_payload: int = MAX_PAYLOAD
    rest: bytearray = field(default_factory=bytearray)  # the beginning of a packet

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole with these bytes.

        Raises:
            GarbledError: a header is wrong or announces more than ``max_payload``
        """
        self.rest += data
        packets = []
        start = 0
        while len(self.rest) - start >= _HEADER.size:
            magic, kind, unit, pid, length = _HEADER.unpack_from(self.rest, start)
            if magic != _MAGIC:
                raise GarbledError("stray bytes")
            if length > self.max_payload:
                raise GarbledError(f"a message of {length} bytes")
            end = start + _HEADER.size + length
            if len(self.rest) < end:
                break
            packets.append(Packet(kind, unit, pid, bytes(self.rest[start + _HEADER.size : end])))
            start = end
        del self.rest[:start]
        if not _MAGIC.startswith(self.rest[: len(_MAGIC)]):
            raise GarbledError("stray bytes")
        return packets
