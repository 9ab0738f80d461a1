"""A square picture being drawn, in units of a hundredth of its side; drawn three times as large and scaled down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Colour = tuple[int, int, int]

INK: Colour = (25, 25, 25)
_SMOOTHING = 3


class Canvas:
    def __init__(self, size: int, ground: Colour) -> None:
        self._scale = size * _SMOOTHING / 100
        self._image = Image.new("RGB", (size * _SMOOTHING, size * _SMOOTHING), ground)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(
        self, points: Sequence[Point], fill: Colour | None = None, line: Colour = INK, width: float = 1
    ) -> None:
        """Filled, or as an outline that stays inside the corners' bounding box."""
        if fill is not None:
            self._draw.polygon(self._place(points), fill=fill)
        else:
            self._draw.polygon(self._place(points), outline=line, width=round(width * self._scale))

    def circle(
        self, centre: Point, radius: float, fill: Colour | None = None, line: Colour = INK, width: float = 1
    ) -> None:
        x, y = centre
        box = self._place([(x - radius, y - radius), (x + radius, y + radius)])
        if fill is not None:
            self._draw.ellipse(box, fill=fill)
        else:
            self._draw.ellipse(box, outline=line, width=round(width * self._scale))

    def arc(self, centre: Point, radius: float, one: Point, other: Point, width: float = 1) -> None:
        """The arc of a circle inside the angle below 180 degrees that two points form at its centre."""
        x, y = centre
        start, end = (math.degrees(math.atan2(py - y, px - x)) for px, py in (one, other))
        if (end - start) % 360 > 180:
            start, end = end, start
        box = self._place([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.arc(box, start, end, fill=INK, width=round(width * self._scale))

    def line(self, start: Point, end: Point, width: float = 1) -> None:
        self._draw.line(self._place([start, end]), fill=INK, width=round(width * self._scale))

    def dot(self, centre: Point) -> None:
        self.circle(centre, 1.1, INK)

    def text(self, centre: Point, text: str, height: float = 7) -> None:
        [place] = self._place([centre])
        font = _font(round(height * self._scale))
        self._draw.text(place, text, fill=INK, font=font, anchor="mm")

    def finish(self) -> Image.Image:
        return self._image.reduce(_SMOOTHING)

    def _place(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]


@cache
def _font(pixels: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(pixels)
