"""Things with attributes (size, pattern, colour, shape), placed apart from each other, and phrases for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from PIL import Image

from data_tools.levels.canvas import Canvas, Colour, Point

LEVELS = (1, 2, 3, 4, 5)
MIN_OBJECTS = 5  # with fewer, some levels find nothing to ask
MAX_OBJECTS = 16
_OBJECTS = {1: (3, 5), 2: (4, 7), 3: (5, 9), 4: (6, 12), 5: (8, 16)}

COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40),
    "green": (44, 140, 60),
    "blue": (40, 90, 205),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
    "orange": (245, 130, 25),
    "cyan": (40, 190, 210),
    "grey": (120, 120, 120),
}
SHAPES = ("circle", "square", "triangle", "star")
_RADII = {"small": 4.5, "large": 8.0}
_PATTERNS = ("solid", "hollow")
_GROUNDS: tuple[Colour, ...] = ((255, 255, 255), (244, 241, 232), (232, 238, 244), (236, 244, 236))
_GAP = 1.5  # between things, and from the edge, in hundredths of the side
ATTRIBUTES = ("size", "pattern", "colour", "shape")  # in the order of the words
MARGIN = 4.0  # a relation is only asked about if it holds by this much

Description = Mapping[str, str]
"""Values of some of the attributes: ``{"colour": "red", "shape": "star"}``."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """How difficult a scene is."""

    level: int
    objects: tuple[int, int] | None = None  # minimum and maximum number of things; None: depends on the level

    @property
    def num_objects(self) -> tuple[int, int]:
        return self.objects or _OBJECTS[self.level]


@dataclass(frozen=True, slots=True)
class Thing:
    """In units of a hundredth of the picture's side, origin at the top left."""

    x: float
    y: float
    attributes: dict[str, str]

    @property
    def radius(self) -> float:
        return _RADII[self.attributes["size"]]

    def matches(self, description: Description) -> bool:
        return description.items() <= self.attributes.items()

    def outline(self) -> list[Point]:
        """The corners; those of its bounding box for a circle."""
        x, y, r = self.x, self.y, self.radius
        shape = self.attributes["shape"]
        if shape == "triangle":
            return [(x, y - r), (x + r, y + r), (x - r, y + r)]
        if shape == "star":
            turns = [math.pi * number / 5 - math.pi / 2 for number in range(10)]
            lengths = [r if number % 2 == 0 else r * 0.45 for number in range(10)]
            return [(x + n * math.cos(t), y + n * math.sin(t)) for n, t in zip(lengths, turns, strict=True)]
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]

    def box(self, size: int) -> list[float]:
        """x1, y1, x2, y2 in pixels of a ``size`` x ``size`` picture."""
        columns, rows = zip(*self.outline(), strict=True)
        return [round(edge * size / 100, 2) for edge in (min(columns), min(rows), max(columns), max(rows))]


def scatter_things(rng: Random, knobs: Knobs) -> list[Thing]:
    """Things with few colours and shapes, so that several share an attribute; none touches another."""
    number = rng.randint(*knobs.num_objects)
    colours = rng.sample(list(COLOURS), rng.randint(2, 4))
    shapes = rng.sample(SHAPES, rng.randint(2, 3))
    things: list[Thing] = []
    while len(things) < number:
        things = []
        for _ in range(60 * number):
            thing = _draw_thing(rng, colours, shapes)
            if all(_apart(thing, other) for other in things):
                things.append(thing)
            if len(things) == number:
                break
    return things


def _draw_thing(rng: Random, colours: Sequence[str], shapes: Sequence[str]) -> Thing:
    attributes = {
        "size": rng.choice(list(_RADII)),
        "pattern": rng.choice(_PATTERNS),
        "colour": rng.choice(colours),
        "shape": rng.choice(shapes),
    }
    edge = _RADII[attributes["size"]] + _GAP
    return Thing(round(rng.uniform(edge, 100 - edge), 2), round(rng.uniform(edge, 100 - edge), 2), attributes)


def _apart(one: Thing, other: Thing) -> bool:
    reach = one.radius + other.radius + _GAP
    return abs(one.x - other.x) > reach or abs(one.y - other.y) > reach


def paint(rng: Random, things: Sequence[Thing], size: int) -> Image.Image:
    canvas = Canvas(size, rng.choice(_GROUNDS))
    for thing in things:
        shade = rng.randint(-12, 12)  # variety that no question asks about
        red, green, blue = (max(0, min(255, value + shade)) for value in COLOURS[thing.attributes["colour"]])
        colour = (red, green, blue)
        fill = colour if thing.attributes["pattern"] == "solid" else None
        if thing.attributes["shape"] == "circle":
            canvas.circle((thing.x, thing.y), thing.radius, fill, colour, 1.4)
        else:
            canvas.polygon(thing.outline(), fill, colour, 1.4)
    return canvas.finish()


def name(description: Description, is_plural: bool = False) -> str:
    """``large red squares``; without a shape, ``large red things``."""
    words = [description[attribute] for attribute in ATTRIBUTES[:3] if attribute in description]
    noun = description.get("shape", "thing")
    return " ".join([*words, noun + "s" if is_plural else noun])


def describe_one(rng: Random, things: Sequence[Thing], thing: Thing, num_attributes: int) -> Description | None:
    """A description with exactly ``num_attributes``, all needed, that fits only this thing; None if there is none."""
    names = list(ATTRIBUTES)
    rng.shuffle(names)
    for chosen in combinations(names, num_attributes):
        description = {attribute: thing.attributes[attribute] for attribute in chosen}
        if _is_unique(things, description) and not any(
            _is_unique(things, {n: v for n, v in description.items() if n != left_out}) for left_out in chosen
        ):
            return description
    return None


def _is_unique(things: Sequence[Thing], description: Description) -> bool:
    return sum(thing.matches(description) for thing in things) == 1


def describe_shortest(rng: Random, things: Sequence[Thing], thing: Thing) -> Description | None:
    for count in range(1, len(ATTRIBUTES) + 1):
        description = describe_one(rng, things, thing, count)
        if description is not None:
            return description
    return None


RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relation in words -> direction in the picture."""


def offset(thing: Thing, anchor: Thing, relation: str) -> float:
    """How far ``thing`` is from ``anchor`` in the relation's direction; negative on the other side."""
    across, down = RELATIONS[relation]
    return (thing.x - anchor.x) * across + (thing.y - anchor.y) * down
