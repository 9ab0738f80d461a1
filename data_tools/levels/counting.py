"""How many things fit a description: by level, one attribute, two, three, either of two, relative to another thing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from data_tools.levels.things import (
    ATTRIBUTES,
    MARGIN,
    RELATIONS,
    Description,
    Knobs,
    Thing,
    describe_shortest,
    name,
    offset,
    paint,
    scatter_things,
)
from data_tools.scenes import Scene

_MOST_ASKED = 6  # answers from 0 to this are equally likely if the scene has enough things
_TRIES = 60  # questions to try until one has the wanted answer
_TRIES_A_SCENE = 5


def draw_counting(rng: Random, size: int, knobs: Knobs) -> Scene:
    wanted = rng.randint(0, min(_MOST_ASKED, knobs.num_objects[1]))
    found: tuple[list[Thing], str, int] | None = None
    for number in range(_TRIES):
        if number % _TRIES_A_SCENE == 0:
            things = scatter_things(rng, knobs)
        asked = _ask(rng, things, knobs.level)
        found = (things, *asked) if asked is not None else found
        if asked is not None and asked[1] == wanted:
            break
    if found is None:
        return draw_counting(rng, size, knobs)
    things, question, count = found
    return Scene(paint(rng, things, size), question, str(count))


def _ask(rng: Random, things: Sequence[Thing], level: int) -> tuple[str, int] | None:
    """The question and its answer."""
    if level <= 3:
        description = _draw_description(rng, things, level)
        count = sum(thing.matches(description) for thing in things)
        return f"How many {name(description, is_plural=True)} are there?", count
    if level == 4:
        return _ask_either(rng, things)
    return _ask_beside(rng, things)


def _draw_description(rng: Random, things: Sequence[Thing], num_attributes: int) -> Description:
    """Values that occur in the scene, but perhaps not together, so the answer may be 0."""
    chosen = rng.sample(ATTRIBUTES, num_attributes)
    return {attribute: rng.choice(things).attributes[attribute] for attribute in chosen}


def _ask_either(rng: Random, things: Sequence[Thing]) -> tuple[str, int] | None:
    one, other = _draw_description(rng, things, 1), _draw_description(rng, things, 2)
    if set(one.items()) <= set(other.items()):
        return None
    count = sum(thing.matches(one) or thing.matches(other) for thing in things)
    return f"How many things are {name(one, is_plural=True)} or {name(other, is_plural=True)}?", count


def _ask_beside(rng: Random, things: Sequence[Thing]) -> tuple[str, int] | None:
    anchor = rng.choice(things)
    described = describe_shortest(rng, things, anchor)
    counted = _draw_description(rng, things, rng.randint(1, 2))
    relation = rng.choice(list(RELATIONS))
    candidates = [thing for thing in things if thing is not anchor and thing.matches(counted)]
    distances = [offset(thing, anchor, relation) for thing in candidates]
    if described is None or any(abs(distance) < MARGIN for distance in distances):
        return None
    if described.items() <= counted.items():  # nothing but the anchor is meant: "stars right of the star"
        return None
    count = sum(distance > 0 for distance in distances)
    return f"How many {name(counted, is_plural=True)} are {relation} the {name(described)}?", count
