"""Spatial relations as a choice: on which side (level 1), at which corner, what is nearest, outermost, in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from data_tools.levels.things import (
    MARGIN,
    RELATIONS,
    Knobs,
    Thing,
    describe_shortest,
    name,
    offset,
    paint,
    scatter_things,
)
from data_tools.scenes import Scene

Asked = tuple[str, list[str], str]
"""Question, options and the right one."""

_TRIES = 20  # tries with the same things before new ones are drawn
_OUTERMOST = {"leftmost": "left of", "rightmost": "right of", "highest": "above", "lowest": "below"}


def draw_relations(rng: Random, size: int, knobs: Knobs) -> Scene:
    ask = (_ask_side, _ask_corner, _ask_nearest, _ask_outermost, _ask_between)[knobs.level - 1]
    while True:
        things = scatter_things(rng, knobs)
        names = {id(t): described for t in things if (described := _name_one(rng, things, t)) is not None}
        named = [thing for thing in things if id(thing) in names]
        for _ in range(_TRIES):
            rng.shuffle(named)
            asked = ask(rng, named, [names[id(thing)] for thing in named])
            if asked is None:
                continue
            question, options, answer = asked
            rng.shuffle(options)
            listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABCDEFGH", options, strict=False))
            return Scene(paint(rng, things, size), f"{question} {listed}", answer, options=tuple(options))


def _name_one(rng: Random, things: Sequence[Thing], thing: Thing) -> str | None:
    description = describe_shortest(rng, things, thing)
    return None if description is None else f"the {name(description)}"


def _ask_side(rng: Random, things: Sequence[Thing], names: Sequence[str]) -> Asked | None:
    """Asks on which side one of two things is, if it is clearly more on one side than on any other."""
    if len(things) < 2:
        return None
    offsets = {relation: offset(things[0], things[1], relation) for relation in RELATIONS}
    answer = max(offsets, key=lambda relation: offsets[relation])
    if any(relation != answer and 2 * distance > offsets[answer] for relation, distance in offsets.items()):
        return None
    return f"Where is {names[0]} seen from {names[1]}?", list(RELATIONS), answer


def _ask_corner(rng: Random, things: Sequence[Thing], names: Sequence[str]) -> Asked | None:
    if len(things) < 2:
        return None
    across, down = offset(things[0], things[1], "right of"), offset(things[0], things[1], "below")
    if min(abs(across), abs(down)) < 2 * MARGIN:
        return None
    options = [f"{row} and {column} of" for row in ("above", "below") for column in ("left", "right")]
    answer = f"{'below' if down > 0 else 'above'} and {'right' if across > 0 else 'left'} of"
    return f"Where is {names[0]} seen from {names[1]}?", options, answer


def _ask_nearest(rng: Random, things: Sequence[Thing], names: Sequence[str]) -> Asked | None:
    """Asks which of up to four things is nearest to another one."""
    if len(things) < 3:
        return None
    distances = [math.dist((things[0].x, things[0].y), (thing.x, thing.y)) for thing in things[1:5]]
    return _ask_least(f"Which of these is nearest to {names[0]}?", distances, names[1:5])


def _ask_outermost(rng: Random, things: Sequence[Thing], names: Sequence[str]) -> Asked | None:
    if len(things) < 3:
        return None
    word = rng.choice(list(_OUTERMOST))
    places = [-offset(thing, things[0], _OUTERMOST[word]) for thing in things[:4]]
    return _ask_least(f"Which of these is the {word}?", places, names[:4])


def _ask_least(question: str, values: Sequence[float], names: Sequence[str]) -> Asked | None:
    first, second = sorted(values)[:2]
    if second - first < MARGIN:
        return None
    return question, list(names), names[list(values).index(first)]


def _ask_between(rng: Random, things: Sequence[Thing], names: Sequence[str]) -> Asked | None:
    """Asks which of up to four things lies between two others, going from left to right."""
    if len(things) < 4:
        return None
    ends = sorted(things[:2], key=lambda thing: thing.x)
    options = things[2:6]
    lefts = [thing.x - ends[0].x for thing in options]
    rights = [ends[1].x - thing.x for thing in options]
    if any(abs(distance) < MARGIN for distance in (*lefts, *rights)):
        return None
    between = [min(left, right) > 0 for left, right in zip(lefts, rights, strict=True)]
    if sum(between) != 1:
        return None
    question = f"Going from left to right, which of these comes between {names[0]} and {names[1]}?"
    return question, list(names[2:6]), names[2:6][between.index(True)]
