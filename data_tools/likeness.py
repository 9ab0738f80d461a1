"""Finds images that show the same, even if one was rescaled, recompressed or saved in another format.

A 64-bit fingerprint finds candidates (pHash: the signs of the low frequencies of a small grey copy; Zauner,
Implementation and Benchmarking of Perceptual Image Hash Functions, 2010). Simple drawings often share a fingerprint, so
small copies of both images must also be alike everywhere: in brightness at 96 x 96, in colour at 16 x 16.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

import numpy
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from gpg_vl.data.images import original_size

MAX_BITS = 10  # maximum number of differing bits in the fingerprints of alike images
MAX_BRIGHTNESS_GAP = 50  # of 255, anywhere in the small copies; measurements in docs/data.md
MAX_COLOUR_GAP = 18
MAX_ASPECT_GAP = 0.02  # relative; rounding a side to pixels can cause as much
_SIDE = 96
_COLOUR_SIDE = 16
_SMALL_BYTES = _SIDE**2 + 2 * _COLOUR_SIDE**2
_PAIRS_AT_ONCE = 2**21  # pairs of fingerprints compared at once; bounds memory
_CANDIDATES_AT_ONCE = 64

Indices = NDArray[numpy.intp]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of an image to compare it with others."""

    size: tuple[int, int]  # width and height in pixels
    fingerprint: int
    small: bytes  # brightness, then the two colour channels, each in row order


def look_at(image: Image.Image) -> Picture:
    """The picture of an upright RGB image."""
    channels = image.convert("YCbCr").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)  # the smoothest filter
    colours = channels.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    brightness, colour = numpy.asarray(channels)[..., 0], numpy.asarray(colours)[..., 1:]
    return Picture(original_size(image), fingerprint(image), brightness.tobytes() + colour.tobytes())


def fingerprint(image: Image.Image) -> int:
    """64 bits, few of which change when the image is scaled or compressed."""
    grey = numpy.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=numpy.float64)
    low = dctn(grey, norm="ortho")[:8, :8].flatten()
    low[0] = 0.0  # overall brightness
    return int.from_bytes(numpy.packbits(low > numpy.median(low)).tobytes(), "big")


class Album:
    """Pictures by number: 16 bytes of each in memory, the small copies in an unnamed temporary file."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._prints = array("Q")
        self._aspects = array("d")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, picture: Picture) -> int:
        """Keeps a picture; returns its number."""
        self._file.write(picture.small)
        self._prints.append(picture.fingerprint)
        self._aspects.append(picture.size[0] / picture.size[1])
        return len(self._prints) - 1

    def find_first(
        self, queries: Sequence[Sequence[int]], known: Sequence[Sequence[int]], earlier_alone: bool = False
    ) -> Iterator[tuple[int, int]]:
        """For each query with an alike entry in ``known``: its place, and the place of the first such entry.

        Args:
            queries: [Q, P] picture numbers; two entries are alike if each of their P pictures is
            known: [K, P]
            earlier_alone: only entries before the query, if both are the same list
        """
        if not queries or not known:
            return
        self._file.flush()
        copies = numpy.memmap(self._file, numpy.uint8, "r").reshape(-1, _SMALL_BYTES)
        prints = numpy.frombuffer(self._prints, numpy.uint64)
        wanted, table = numpy.array(queries, dtype=numpy.intp), numpy.array(known, dtype=numpy.intp)
        chunk = max(1, _PAIRS_AT_ONCE // len(table))
        for start in range(0, len(wanted), chunk):
            block = wanted[start : start + chunk]
            bits = numpy.bitwise_count(prints[block[:, 0], None] ^ prints[None, table[:, 0]])  # [chunk, K]
            for row in numpy.flatnonzero((bits <= MAX_BITS).any(axis=1)):
                candidates = numpy.flatnonzero(bits[row] <= MAX_BITS)
                if earlier_alone:
                    candidates = candidates[candidates < start + row]
                first = self._first_like(copies, block[row], table, candidates)
                if first is not None:
                    yield start + int(row), first

    def _first_like(
        self, copies: NDArray[numpy.uint8], query: Indices, table: Indices, candidates: Indices
    ) -> int | None:
        for start in range(0, len(candidates), _CANDIDATES_AT_ONCE):
            left = candidates[start : start + _CANDIDATES_AT_ONCE]
            for position, number in enumerate(query):
                left = left[self._are_alike(copies, int(number), table[left, position])]
            if len(left):
                return int(left[0])
        return None

    def _are_alike(self, copies: NDArray[numpy.uint8], number: int, others: Indices) -> NDArray[numpy.bool_]:
        """[others]; compares the aspect ratio first, then the colours, then the brightness everywhere."""
        aspects = numpy.frombuffer(self._aspects)
        alike: NDArray[numpy.bool_] = abs(aspects[others] / aspects[number] - 1) <= MAX_ASPECT_GAP
        colour, brightness = slice(_SIDE**2, _SMALL_BYTES), slice(0, _SIDE**2)
        for part, most in ((colour, MAX_COLOUR_GAP), (brightness, MAX_BRIGHTNESS_GAP)):
            one, rest = copies[number, part], copies[others[alike], part]
            gaps = numpy.maximum(one, rest) - numpy.minimum(one, rest)
            alike[alike] = gaps.max(axis=1, initial=0) <= most
        return alike
