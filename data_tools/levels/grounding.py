"""Where one thing is: by level, named by one attribute, two, three, relative to another thing, and by its rank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from data_tools.levels.things import (
    MARGIN,
    RELATIONS,
    Knobs,
    Thing,
    describe_one,
    describe_shortest,
    name,
    offset,
    paint,
    scatter_things,
)
from data_tools.scenes import Scene

_RANKS = ("first", "second", "third", "fourth")
_SIDES = {"left": (1, 0), "right": (-1, 0), "top": (0, 1), "bottom": (0, -1)}


def draw_grounding(rng: Random, size: int, knobs: Knobs) -> Scene:
    while True:
        things = scatter_things(rng, knobs)
        target = rng.choice(things)
        expression = _refer(rng, things, target, knobs.level)
        if expression is not None:
            return Scene(paint(rng, things, size), f"Where is {expression}?", str(target.box(size)))


def _refer(rng: Random, things: Sequence[Thing], target: Thing, level: int) -> str | None:
    """An expression that means this thing and no other; None if the level has none for it."""
    if level <= 3:
        description = describe_one(rng, things, target, level)
        return None if description is None else f"the {name(description)}"
    return _refer_beside(rng, things, target) if level == 4 else _refer_by_rank(rng, things, target)


def _refer_beside(rng: Random, things: Sequence[Thing], target: Thing) -> str | None:
    anchor = rng.choice([thing for thing in things if thing is not target])
    described = describe_shortest(rng, things, anchor)
    relation = rng.choice(list(RELATIONS))
    shape = {"shape": target.attributes["shape"]}
    alike = [thing for thing in things if thing is not anchor and thing.matches(shape)]
    distances = [offset(thing, anchor, relation) for thing in alike]
    is_clear = len(alike) > 1 and all(abs(distance) >= MARGIN for distance in distances)
    beside = [thing for thing, distance in zip(alike, distances, strict=True) if distance > 0]
    if described is None or not is_clear or beside != [target]:
        return None
    return f"the {name(shape)} {relation} the {name(described)}"


def _refer_by_rank(rng: Random, things: Sequence[Thing], target: Thing) -> str | None:
    attribute = rng.choice(["colour", "shape"])
    kind = {attribute: target.attributes[attribute]}
    side = rng.choice(list(_SIDES))
    across, down = _SIDES[side]
    alike = sorted((t for t in things if t.matches(kind)), key=lambda t: t.x * across + t.y * down)
    places = [t.x * across + t.y * down for t in alike]
    rank = alike.index(target)
    is_clear = all(after - before >= MARGIN for before, after in pairwise(places))
    if len(alike) < 2 or not is_clear or rank >= len(_RANKS):
        return None
    return f"the {_RANKS[rank]} {name(kind)} from the {side}"
