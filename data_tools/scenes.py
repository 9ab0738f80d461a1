"""Draws the demo scenes: small pictures with one question each, whose answer is known from the drawing.

A scene is drawn in units of 1/84 of the picture's side, so that at 84 pixels shapes line up with the 14-pixel vision
patches of Qwen2-VL. Edges are smooth: a picture is drawn four times as large and scaled down. Writes no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

UNITS = 84
"""Side of every picture, in drawing units."""

COLOURS: dict[str, Colour] = {
    "red": (215, 35, 40),
    "green": (20, 150, 60),
    "blue": (35, 80, 205),
    "black": (20, 20, 20),
}

_WHITE: Colour = (255, 255, 255)
_GRID: Colour = (190, 190, 190)
_SMOOTHING = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with its question."""

    image: Image.Image  # RGB, square
    question: str
    answer: str  # boxes in pixels of the image
    reasoning: str | None = None
    options: tuple[str, ...] = ()  # of a choice, in the order of the question's letters


def draw_counting(rng: Random, size: int) -> Scene:
    """One to six circles and squares on white, each in its own cell of a 3 x 3 grid."""
    canvas = Canvas(size)
    number = rng.randint(1, 6)
    for cell in rng.sample(range(9), number):
        x = 28 * (cell % 3) + 14 + rng.randint(-2, 2)
        y = 28 * (cell // 3) + 14 + rng.randint(-2, 2)
        half = rng.randint(7, 11)
        colour = lighten(rng, rng.choice(list(COLOURS.values())))
        canvas.draw(rng.choice(["circle", "square"]), (x - half, y - half, x + half, y + half), colour)
    return Scene(canvas.finish(), "How many shapes?", str(number))


def draw_geometry(rng: Random, size: int) -> Scene:
    """A rectangle with sides of one to four cells on a six by six grid; the question asks its perimeter in cells."""
    canvas = Canvas(size)
    width, height = rng.randint(1, 4), rng.randint(1, 4)
    left, top = rng.randint(0, 6 - width), rng.randint(0, 6 - height)
    colour = lighten(rng, rng.choice(list(COLOURS.values())))
    canvas.draw("square", (14 * left, 14 * top, 14 * (left + width), 14 * (top + height)), colour)
    for line in range(14, UNITS, 14):
        canvas.draw("square", (line, 0, line + 1, UNITS), _GRID)
        canvas.draw("square", (0, line, UNITS, line + 1), _GRID)
    return Scene(canvas.finish(), "What is the perimeter?", str(2 * (width + height)), f"{width} by {height}")


def draw_grounding(rng: Random, size: int) -> Scene:
    """One or two shapes of different colours on a shaded background; the question asks for the box of one.

    Edges are at multiples of a tenth of the side, so boxes are multiples of 100 on a 0-1000 grid.
    """
    canvas = Canvas(size, _shaded_ground(size * _SMOOTHING))
    names = rng.sample(list(COLOURS), rng.randint(1, 2))
    boxes = [(_draw_span(rng), _draw_span(rng))]
    if len(names) == 2:
        boxes.append(_draw_box_beside(rng, *boxes[0]))
    for name, ((left, right), (top, bottom)) in zip(names, boxes, strict=True):
        box = tuple(UNITS * edge / 10 for edge in (left, top, right, bottom))
        canvas.draw(rng.choice(["circle", "square"]), box, lighten(rng, COLOURS[name]))
    (left, right), (top, bottom) = boxes[0]
    answer = [round(size * edge / 10, 4) for edge in (left, top, right, bottom)]
    return Scene(canvas.finish(), f"Where is the {names[0]} shape?", str(answer))


DRAWERS: dict[str, Callable[[Random, int], Scene]] = {
    "counting": draw_counting,
    "geometry": draw_geometry,
    "grounding": draw_grounding,
}
"""Drawing functions by the name of the task that asks about the scene. The last argument is the side in pixels."""


class Canvas:
    """A square picture being drawn. Coordinates are in drawing units; right and bottom edges are exclusive."""

    def __init__(self, size: int, ground: Image.Image | None = None) -> None:
        side = size * _SMOOTHING
        self._scale = side / UNITS
        self._image = Image.new("RGB", (side, side), _WHITE) if ground is None else ground.copy()
        self._draw = ImageDraw.Draw(self._image)

    def draw(self, kind: str, box: tuple[float, ...], colour: Colour) -> None:
        """Draws a circle, or a square, stretched to fill the box (left, top, right, bottom)."""
        left, top, right, bottom = (round(edge * self._scale) for edge in box)
        shape = self._draw.ellipse if kind == "circle" else self._draw.rectangle
        shape((left, top, right - 1, bottom - 1), fill=colour)

    def finish(self) -> Image.Image:
        return self._image.reduce(_SMOOTHING)


def lighten(rng: Random, colour: Colour) -> Colour:
    """One of 41 shades: no question is about it, but it adds variety, so that pictures do not run out."""
    extra = rng.randint(0, 40)
    red, green, blue = colour
    return (red + extra, green + extra, blue + extra)


@cache
def _shaded_ground(side: int) -> Image.Image:
    """White at the top left, less red to the right and less green downwards, so that every place looks different."""
    fade = Image.linear_gradient("L").resize((side, side)).point(lambda value: round(255 - 90 * value / 255))
    return Image.merge("RGB", (fade.transpose(Image.Transpose.TRANSPOSE), fade, Image.new("L", (side, side), 255)))


_SPANS = [(start, start + length) for length in (3, 4, 5) for start in range(11 - length)]
_Span = tuple[int, int]


def _draw_span(rng: Random) -> _Span:
    """Start and end of a side that is 3, 4 or 5 tenths long."""
    return rng.choice(_SPANS)


def _draw_box_beside(rng: Random, columns: _Span, rows: _Span) -> tuple[_Span, _Span]:
    """A second box that does not overlap the first. It always exists, since a side is at most half the picture."""
    free = [(x, y) for x in _SPANS for y in _SPANS if _apart(x, columns) or _apart(y, rows)]
    return rng.choice(free)


def _apart(one: _Span, other: _Span) -> bool:
    return one[1] <= other[0] or other[1] <= one[0]
