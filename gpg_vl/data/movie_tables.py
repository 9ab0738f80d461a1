"""How many samples the tables of an MP4 or MOV file promise, read from its boxes before FFmpeg builds an index of them.

A few bytes of such a file can promise any number, and FFmpeg takes memory and time for each. Source: ISO/IEC 14496-12.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

MAX_BOXES = 200_000
MAX_SAMPLES = 3_000_000  # of all tracks, sound too: an hour of 800 a second
_MAX_DEPTH = 10  # as FFmpeg's
_PARENTS = {
    b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"hoov", b"free", b"edts", b"mvex", b"dinf", b"gmhd",
    b"tref", b"udta", b"ilst", b"sinf", b"schi", b"wave",
}  # fmt: skip
"""Boxes in which FFmpeg looks for tables of the track at hand, whether or not one belongs there."""
_HIDING_PLACES = re.compile(b"stsz|stz2|stts|ctts|stsc|stco|co64|trun|elst")
"""Tables that FFmpeg would find inside a sample description, where none has a place. Where in it boxes begin is the
codec's matter."""
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"stco": 4, b"co64": 4}
"""Where a table says how many entries it has."""
_EMPTY_EDIT = -1  # where an edit list shows nothing
_RAW_BLOCK = 160  # of uncompressed sound: the fewest samples in an entry of FFmpeg's index


class TooManySamplesError(ValueError):
    """An index of the file would take much memory and time."""


@dataclass(slots=True)
class Track:
    """A track of a movie, or a fragment of one."""

    handlers: set[bytes] = field(default_factory=set)
    counts: dict[bytes, int] = field(default_factory=dict)  # by table, the most that one promises
    is_raw: set[bool] = field(default_factory=set)  # whether each sample lasts one unit of time, by table of these
    num_edits: int = 0  # parts of its edit list that show something, of the longest

    @property
    def is_video(self) -> bool:
        return b"vide" in self.handlers

    @property
    def num_samples(self) -> int:
        """Entries of an index of the track. Uncompressed sound has one for many samples of a chunk."""
        if self.is_raw == {True} and self.handlers - {b"alis", b"url "} == {b"soun"}:
            return self._most(b"stco", b"co64") * (self._most(b"stsc") // _RAW_BLOCK + 1)
        return self._most(b"stsz", b"stz2", b"stts", b"ctts", b"trun")

    @property
    def num_entries(self) -> int:
        """Of an index that follows the edit list: each part of it may show all samples again."""
        return self.num_samples * max(1, self.num_edits)

    def _most(self, *kinds: bytes) -> int:
        return max(self.counts.get(kind, 0) for kind in kinds)

    def add(self, data: bytes, kind: bytes, start: int, end: int) -> None:
        """Reads a box of the track.

        Raises:
            TooManySamplesError: there is a table where it has no place
        """
        if kind == b"hdlr":
            self.handlers.add(data[start + 8 : start + 12])
        elif kind in _COUNTS:
            place = start + _COUNTS[kind]
            self._promise(kind, int.from_bytes(data[place : min(place + 4, end)], "big"))
        elif kind in (b"stts", b"ctts"):
            runs = _columns(data, start, end, 2)
            self._promise(kind, int(runs[:, 0].sum(dtype=numpy.uint64)))
            if kind == b"stts":
                self.is_raw.add(len(runs) == 1 and runs[0, 1] == 1)
        elif kind == b"stsc":
            self._promise(kind, int(_columns(data, start, end, 3)[:, 1].max(initial=0)))
        elif kind == b"elst":
            self.num_edits = max(self.num_edits, _count_edits(data, start, end))
        elif kind == b"stsd" and _HIDING_PLACES.search(data, start, end):
            raise TooManySamplesError("the description of its samples holds a table of samples; encode the video again")
        elif kind == b"cmov":
            raise TooManySamplesError("its tables are compressed, which the kit does not read; encode the video again")

    def _promise(self, kind: bytes, count: int) -> None:
        self.counts[kind] = max(self._most(kind), count)


def read_tracks(data: bytes) -> list[Track]:
    """The tracks of a file, with those of its fragments; of a file of another format, none that promises anything.

    Raises:
        TooManySamplesError: there are more than ``MAX_BOXES`` boxes, or tables where they cannot be read
    """
    tracks = [Track()]
    for number, (kind, start, end) in enumerate(_boxes(data, 0, len(data))):
        if number == MAX_BOXES:
            raise TooManySamplesError(f"the file has more than {MAX_BOXES} boxes; encode the video again")
        if kind in (b"trak", b"traf"):
            tracks.append(Track())
        tracks[-1].add(data, kind, start, end)
    return tracks


def refuse_samples(tracks: Sequence[Track]) -> None:
    """
    Raises:
        TooManySamplesError: all tracks together promise more than ``MAX_SAMPLES``
    """
    total = sum(track.num_samples for track in tracks)
    entries = sum(track.num_entries for track in tracks)
    if total <= MAX_SAMPLES < entries:
        raise TooManySamplesError(
            f"its edit lists may show its {total} samples so often that they count as {entries}, more than "
            f"{MAX_SAMPLES}; encode the video again"
        )
    if total > MAX_SAMPLES:
        raise TooManySamplesError(
            f"its tracks have {total} samples, more than {MAX_SAMPLES}; cut it, or write it without sound"
        )


def _boxes(data: bytes, start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of what each box holds, a parent before its children."""
    while end - start >= 8 and depth <= _MAX_DEPTH:
        size, kind = struct.unpack_from(">I4s", data, start)
        inside = start + 8
        if size == 1 and end - start >= 16:
            [size] = struct.unpack_from(">Q", data, inside)
            inside += 8
        stop = end if size == 0 else min(end, start + size)
        if stop < inside:
            return
        yield kind, inside, stop
        if kind in _PARENTS:
            yield from _boxes(data, inside, stop, depth + 1)
        elif kind == b"meta" and (first := data.find(b"hdlr", inside, stop)) >= 0:
            yield from _boxes(data, first - 4, stop, depth + 1)
        start = stop


def _count_edits(data: bytes, start: int, end: int) -> int:
    """Parts of an edit list that are not empty: as many as there is room for, whatever the list says."""
    entry = struct.Struct(">QqI" if data[start : start + 1] == b"\1" else ">IiI")
    count = max(0, end - start - 8) // entry.size
    parts = entry.iter_unpack(data[start + 8 : start + 8 + count * entry.size])
    return sum(time != _EMPTY_EDIT for _, time, _ in parts)


def _columns(data: bytes, start: int, end: int, width: int) -> numpy.ndarray[Any, Any]:
    """The rows that a table has, [N, width], at most as many as it says."""
    said = int.from_bytes(data[start + 4 : min(start + 8, end)], "big")
    count = min(said, max(0, end - start - 8) // (4 * width))
    return numpy.frombuffer(data[start + 8 : start + 8 + 4 * width * count], ">u4").reshape(count, width)
