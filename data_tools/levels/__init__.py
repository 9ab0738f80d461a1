"""Scenes of five levels of difficulty, with answers known by construction. ``data_tools.scenes`` has the demo's.

A level decides what is asked, and how many other things are in the picture; ``Knobs.objects`` sets their number by
hand. Nothing here writes a file.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from data_tools.levels.counting import draw_counting
from data_tools.levels.geometry import draw_geometry
from data_tools.levels.grounding import draw_grounding
from data_tools.levels.relations import draw_relations
from data_tools.levels.things import LEVELS, MAX_OBJECTS, MIN_OBJECTS, Knobs
from data_tools.scenes import Scene

__all__ = ["LEVELLED_DRAWERS", "LEVELS", "MAX_OBJECTS", "MIN_OBJECTS", "Knobs"]

LEVELLED_DRAWERS: dict[str, Callable[[Random, int, Knobs], Scene]] = {
    "counting": draw_counting,
    "geometry": draw_geometry,
    "grounding": draw_grounding,
    "choice": draw_relations,
}
"""Drawing functions by the name of the task that asks about the scene. The second argument is the side in pixels."""
