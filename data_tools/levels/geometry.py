"""Labelled figures to scale. The labels suffice to find the answer, which is known from how the figure was made.

Level 1 needs one rule, level 5 two; degrees, roots and multiples of pi appear from levels 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random

from data_tools.levels.canvas import Canvas, Point
from data_tools.levels.things import Knobs
from data_tools.scenes import Scene

Figure = tuple[str, str]
"""Question and answer."""

_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))
_GROUND = (255, 255, 255)


def draw_geometry(rng: Random, size: int, knobs: Knobs) -> Scene:
    canvas = Canvas(size, _GROUND)
    question, answer = rng.choice(_FIGURES[knobs.level])(rng, canvas)
    return Scene(canvas.finish(), question, answer)


# --- level 1: one rule -----------------------------------------------------------------------------------------------


def _rectangle(rng: Random, canvas: Canvas) -> Figure:
    width, height = rng.randint(4, 20), rng.randint(3, 16)
    corners = _fit([(0, 0), (width, 0), (width, height), (0, height)], rng)
    _outline(canvas, corners, "ABCD")
    _label_side(canvas, corners, 0, str(width))
    _label_side(canvas, corners, 1, str(height))
    if rng.random() < 0.5:
        return "ABCD is a rectangle. What is its perimeter?", str(2 * (width + height))
    return "ABCD is a rectangle. What is its area?", str(width * height)


def _third_angle(rng: Random, canvas: Canvas) -> Figure:
    a, b = rng.randint(35, 75), rng.randint(35, 75)
    corners = _turned(_triangle(a, b), rng)
    _outline(canvas, corners, "ABC")
    _label_angle(canvas, corners, 0, f"{a}°")
    _label_angle(canvas, corners, 1, f"{b}°")
    return "How large is the angle at C in triangle ABC?", f"{180 - a - b}°"


# --- level 2: the theorem of Pythagoras, equal sides -----------------------------------------------------------------


def _hypotenuse(rng: Random, canvas: Canvas) -> Figure:
    a, b, c = rng.choice(_TRIPLES[:5])
    factor = rng.randint(1, 4)
    corners = _turned([(0, 0), (a, 0), (0, b)], rng)
    _outline(canvas, corners, "ABC")
    lengths = {0: a * factor, 1: c * factor, 2: b * factor}
    unknown = rng.choice([0, 1, 2])
    for side, length in lengths.items():
        if side != unknown:
            _label_side(canvas, corners, side, str(length))
    asked = ("AB", "BC", "CA")[unknown]
    return f"Triangle ABC has a right angle at A. How long is {asked}?", str(lengths[unknown])


def _isosceles(rng: Random, canvas: Canvas) -> Figure:
    base = rng.randint(35, 75)
    corners = _turned(_triangle(base, base), rng)
    _outline(canvas, corners, "ABC")
    if rng.random() < 0.5:
        _label_angle(canvas, corners, 2, f"{180 - 2 * base}°")
        return "In triangle ABC, CA = CB. How large is the angle at A?", f"{base}°"
    _label_angle(canvas, corners, 0, f"{base}°")
    return "In triangle ABC, CA = CB. How large is the angle at C?", f"{180 - 2 * base}°"


# --- level 3: angles outside, fourth angles, areas of triangles ------------------------------------------------------


def _exterior_angle(rng: Random, canvas: Canvas) -> Figure:
    a, c = rng.randint(35, 70), rng.randint(35, 70)
    shape = _triangle(a, 180 - a - c)
    end = (shape[1][0] * 1.4, 0.0)
    corners = _turned([*shape, end], rng)
    _outline(canvas, corners[:3], "ABC")
    canvas.line(corners[1], corners[3])
    canvas.text(_beyond(corners, 3), "D")
    _label_angle(canvas, corners[:3], 0, f"{a}°")
    _label_angle(canvas, corners[:3], 2, f"{c}°")
    return "D lies on the line AB beyond B. How large is the angle CBD?", f"{a + c}°"


def _triangle_area(rng: Random, canvas: Canvas) -> Figure:
    base, height = rng.randint(4, 18), rng.randint(4, 14)
    foot = rng.randint(1, base - 1)
    corners = _fit([(0, height), (base, height), (foot, 0), (foot, height)], rng)
    _outline(canvas, corners[:3], "ABC")
    canvas.line(corners[2], corners[3], 0.6)
    _label_side(canvas, corners[:3], 0, str(base))
    x, y = corners[2][0], (corners[2][1] + corners[3][1]) / 2
    canvas.text((x + (5 if foot < base / 2 else -5), y + 8), str(height), 6)
    return "The height of triangle ABC from C on AB is drawn. What is the area of ABC?", _number(
        Fraction(base * height, 2)
    )


# --- level 4: circles and roots --------------------------------------------------------------------------------------


def _inscribed_angle(rng: Random, canvas: Canvas) -> Figure:
    inscribed = rng.randint(25, 70)
    centre, radius = (50.0, 50.0), rng.uniform(32, 36)
    turn = rng.uniform(0, 360)
    places = [turn - inscribed, turn + inscribed, turn + 180 + rng.uniform(-25, 25)]
    a, b, c = (_on_circle(centre, radius, degrees) for degrees in places)
    canvas.circle(centre, radius)
    for start, end in ((centre, a), (centre, b), (c, a), (c, b)):
        canvas.line(start, end, 0.8)
    canvas.dot(centre)
    for point, label in zip((a, b, c), "ABC", strict=True):
        canvas.text(_away(point, centre, 6), label)
    canvas.text(_on_circle(centre, 5, turn + 180), "O", 6)
    if rng.random() < 0.5:
        canvas.text(_on_circle(centre, 11, turn), f"{2 * inscribed}°", 5.5)
        return "O is the centre of the circle. How large is the angle ACB?", f"{inscribed}°"
    canvas.text(_towards(c, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), 16), f"{inscribed}°", 5.5)
    return "O is the centre of the circle. How large is the angle AOB?", f"{2 * inscribed}°"


def _circle_size(rng: Random, canvas: Canvas) -> Figure:
    radius = rng.randint(2, 30)
    centre, drawn = (50.0, 50.0), rng.uniform(28, 38)
    end = _on_circle(centre, drawn, rng.uniform(0, 360))
    canvas.circle(centre, drawn)
    canvas.line(centre, end)
    canvas.dot(centre)
    canvas.text(_away(centre, end, 6), "O")
    canvas.text(_off_line(centre, end, 6), str(radius))
    if rng.random() < 0.5:
        return "O is the centre of the circle. What is its area?", f"{radius**2}π"
    return "O is the centre of the circle. What is its circumference?", f"{2 * radius}π"


def _diagonal(rng: Random, canvas: Canvas) -> Figure:
    side = rng.randint(2, 30)
    corners = _turned([(0, 0), (1, 0), (1, 1), (0, 1)], rng)
    _outline(canvas, corners, "ABCD")
    canvas.line(corners[0], corners[2], 0.7)
    _label_side(canvas, corners, 0, str(side))
    return "ABCD is a square. How long is its diagonal AC?", f"{side}√2"


# --- level 5: two rules ----------------------------------------------------------------------------------------------


def _bisected(rng: Random, canvas: Canvas) -> Figure:
    a, b = 2 * rng.randint(18, 38), rng.randint(35, 70)
    shape = _triangle(a, b)
    half = math.radians(a / 2)
    ratio = 1 / (1 + math.dist(shape[0], shape[2]) / math.dist(shape[0], shape[1]))
    foot = tuple(p + (q - p) * ratio for p, q in zip(shape[1], shape[2], strict=True))
    assert abs(math.atan2(-foot[1], foot[0]) - half) < 1e-6 or abs(math.atan2(foot[1], foot[0]) - half) < 1e-6
    corners = _turned([*shape, (foot[0], foot[1])], rng)
    _outline(canvas, corners[:3], "ABC")
    canvas.line(corners[0], corners[3], 0.8)
    canvas.text(_away(corners[3], _centre(corners[:3]), 5), "D")
    _label_angle(canvas, corners[:3], 1, f"{b}°")
    _label_angle(canvas, corners[:3], 2, f"{180 - a - b}°")
    return "AD halves the angle at A, and D lies on BC. How large is the angle ADB?", f"{180 - a // 2 - b}°"


def _square_with_circle(rng: Random, canvas: Canvas) -> Figure:
    half = rng.randint(1, 12)
    corners = _turned([(0, 0), (1, 0), (1, 1), (0, 1)], rng)
    _outline(canvas, corners, "ABCD")
    canvas.circle(_centre(corners), math.dist(corners[0], corners[1]) / 2, width=0.8)
    _label_side(canvas, corners, 0, str(2 * half))
    if rng.random() < 0.5:
        return "A circle touches all sides of the square ABCD. What is the area of the circle?", f"{half**2}π"
    return "A circle touches all sides of the square ABCD. What is its circumference?", f"{2 * half}π"


def _right_triangle_area(rng: Random, canvas: Canvas) -> Figure:
    a, b, c = rng.choice(_TRIPLES[:5])
    factor = rng.randint(1, 3)
    corners = _turned([(0, 0), (a, 0), (0, b)], rng)
    _outline(canvas, corners, "ABC")
    _label_side(canvas, corners, 0, str(a * factor))
    _label_side(canvas, corners, 1, str(c * factor))
    question = "Triangle ABC has a right angle at A. What is its area?"
    return question, _number(Fraction(a * b * factor * factor, 2))


_FIGURES: dict[int, tuple[Callable[[Random, Canvas], Figure], ...]] = {
    1: (_rectangle, _third_angle),
    2: (_hypotenuse, _isosceles),
    3: (_exterior_angle, _triangle_area),
    4: (_inscribed_angle, _circle_size, _diagonal),
    5: (_bisected, _square_with_circle, _right_triangle_area),
}


# --- points and labels -----------------------------------------------------------------------------------------------


def _triangle(at_a: float, at_b: float) -> list[Point]:
    """A at the origin, B at (1, 0), C above, from the angles at A and B in degrees."""
    a, b = math.radians(at_a), math.radians(at_b)
    length = math.sin(b) / math.sin(a + b)
    return [(0, 0), (1, 0), (length * math.cos(a), -length * math.sin(a))]


def _turned(points: Sequence[Point], rng: Random) -> list[Point]:
    turn = rng.uniform(0, 2 * math.pi)
    return _fit(
        [(x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)) for x, y in points], rng
    )


def _fit(points: Sequence[Point], rng: Random) -> list[Point]:
    """The figure, as large as fits the picture with room for labels around it."""
    columns, rows = zip(*points, strict=True)
    span = max(max(columns) - min(columns), max(rows) - min(rows))
    scale = rng.uniform(58, 66) / span
    left = 50 - scale * (max(columns) + min(columns)) / 2 + rng.uniform(-2, 2)
    top = 50 - scale * (max(rows) + min(rows)) / 2 + rng.uniform(-2, 2)
    return [(left + scale * x, top + scale * y) for x, y in points]


def _outline(canvas: Canvas, corners: Sequence[Point], labels: str) -> None:
    for number, label in enumerate(labels):
        canvas.line(corners[number], corners[(number + 1) % len(labels)])
        canvas.text(_away(corners[number], _centre(corners), 7), label)


def _label_side(canvas: Canvas, corners: Sequence[Point], side: int, text: str) -> None:
    (x1, y1), (x2, y2) = corners[side], corners[(side + 1) % len(corners)]
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    length = math.dist((x1, y1), (x2, y2))
    normal = ((y2 - y1) / length, (x1 - x2) / length)
    cx, cy = _centre(corners)
    outwards = 1 if normal[0] * (middle[0] - cx) + normal[1] * (middle[1] - cy) > 0 else -1
    canvas.text((middle[0] + 6 * outwards * normal[0], middle[1] + 6 * outwards * normal[1]), text, 6)


def _label_angle(canvas: Canvas, corners: Sequence[Point], corner: int, text: str) -> None:
    """Draws the label with an arc that shows which angle it is: in a small triangle, another corner may be as near."""
    canvas.arc(corners[corner], 7, corners[corner - 1], corners[(corner + 1) % len(corners)], 0.6)
    canvas.text(_towards(corners[corner], _centre(corners), 14), text, 5.5)


def _centre(points: Sequence[Point]) -> Point:
    columns, rows = zip(*points, strict=True)
    return sum(columns) / len(points), sum(rows) / len(points)


def _towards(point: Point, target: Point, distance: float) -> Point:
    share = distance / max(math.dist(point, target), 1e-9)
    return point[0] + (target[0] - point[0]) * share, point[1] + (target[1] - point[1]) * share


def _away(point: Point, other: Point, distance: float) -> Point:
    return _towards(point, other, -distance)


def _beyond(corners: Sequence[Point], number: int) -> Point:
    return _away(corners[number], corners[1], 5)


def _on_circle(centre: Point, radius: float, degrees: float) -> Point:
    turn = math.radians(degrees)
    return centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)


def _off_line(start: Point, end: Point, distance: float) -> Point:
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    length = math.dist(start, end)
    return middle[0] + distance * (end[1] - start[1]) / length, middle[1] - distance * (end[0] - start[0]) / length


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
