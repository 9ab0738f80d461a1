"""The words of ``gpg-vl plan``, read before torch is imported."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

from gpg_vl.config import Recipe
from gpg_vl.planning.layouts import CARDS_PER_MACHINE, LAYOUTS
from gpg_vl.processes.sharding import LayoutName
from gpg_vl.recipes import load_recipe

OVERRIDES = "Every other --section.key VALUE overrides the recipe. What the numbers mean: docs/scale.md."


@dataclass(frozen=True, slots=True)
class PlanOptions:
    gpu: str | None  # None: this machine's
    num_gpus: int
    of_machine: int
    layout: LayoutName
    measures: bool  # one step on this machine, in place of a plan
    host: int | None  # bytes of each machine's memory; None: not known


def read_options(parser: ArgumentParser, words: Sequence[str]) -> tuple[Recipe, PlanOptions]:
    """
    Raises:
        ValueError: an option or the recipe is wrong
    """
    parser.add_argument("recipe", nargs="+", help="recipe; keys of a later one override those of the earlier ones")
    parser.add_argument("--gpu", help="card, e.g. h100-80; default: this machine's, or h100-80 where it has none")
    parser.add_argument("--gpus", default="1", help="number of cards, or machines x cards of each: 2x8 (default 1)")
    parser.add_argument("--sharding", default="none", help=f"layout: {', '.join(LAYOUTS)} (default none)")
    parser.add_argument("--host-gb", help="memory of one machine in GB (default: not compared)")
    parser.add_argument("--measure", action="store_true", help="run one step on this machine instead")
    options, overrides = parser.parse_known_args(words)
    layout = next((name for name in LAYOUTS if name == options.sharding), None)
    if layout is None:
        raise ValueError(f"--sharding: no layout {options.sharding!r}; the layouts are {', '.join(LAYOUTS)}")
    if options.measure and (options.gpu, options.gpus, layout, options.host_gb) != (None, "1", "none", None):
        raise ValueError(
            "--measure runs a step on this machine as it is; leave out --gpu, --gpus, --sharding and --host-gb"
        )
    num_gpus, of_machine = _read_gpus(options.gpus)
    host = None if options.host_gb is None else _read_host(options.host_gb)
    recipe = load_recipe(options.recipe, overrides)
    return recipe, PlanOptions(options.gpu, num_gpus, of_machine, layout, options.measure, host)


def _read_host(word: str) -> int:
    if re.fullmatch(r"[1-9]\d*", word) is None:
        raise ValueError(f"--host-gb is {word!r}; give the memory of one machine in GB, as 512")
    return int(word) * 10**9


def _read_gpus(word: str) -> tuple[int, int]:
    """Cards, and how many each machine has at most: eight where only their number is given."""
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", word)
    if found is None:
        raise ValueError(f"--gpus is {word!r}; give a number of cards, or machines x cards of each, as 2x8")
    machines, cards = found.groups()
    return (int(cards), CARDS_PER_MACHINE) if machines is None else (int(machines) * int(cards), int(cards))
