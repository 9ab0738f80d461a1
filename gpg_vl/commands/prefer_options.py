"""The words of ``gpg-vl prefer``, read before torch is imported."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpg_vl.config import Recipe
from gpg_vl.recipes import load_recipe

EPILOG = (
    "Every --section.key VALUE overrides the recipe. The folder then is a reward part: --rewards.preference OUT. "
    "Labels that OUT holds are kept, and not asked for again."
)


@dataclass(frozen=True, slots=True)
class PreferOptions:
    source: str  # score, ask, or a file of preferences
    num_prompts: int  # to sample answers to, where they do not come from a file
    num_labels: int  # to learn from
    num_held_out: int  # to measure with; 0: not measured
    pairs: Literal["information", "random"]

    def __post_init__(self) -> None:
        for name, least in (("num_prompts", 1), ("num_labels", 1), ("num_held_out", 0)):
            if getattr(self, name) < least:
                option = {"num_prompts": "--prompts", "num_labels": "--labels"}.get(name, "--held-out")
                raise ValueError(f"{option} must be at least {least}")


def read_options(parser: ArgumentParser, words: Sequence[str]) -> tuple[Recipe, PreferOptions, Path]:
    """The recipe, the options, and the output folder.

    Raises:
        ValueError: an option or the recipe is wrong
    """
    parser.add_argument("recipe", help="recipe with the model, the rows and the sampling")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument(
        "--from", dest="source", default="score", metavar="SOURCE",
        help="where labels come from; score: the task's own reward; ask: somebody at the terminal; or a file of JSON "
        "lines with id, first, second and preferred (default score)",
    )  # fmt: skip
    parser.add_argument("--labels", type=int, default=64, help="number of pairs to label (default 64)")
    parser.add_argument("--prompts", type=int, default=64, help="number of prompts to sample answers to (default 64)")
    parser.add_argument("--held-out", type=int, default=20, help="pairs to measure with, labelled too (default 20)")
    parser.add_argument(
        "--pairs", choices=["information", "random"], default="information", help="how the pairs are chosen"
    )
    given, overrides = parser.parse_known_args(words)
    recipe = load_recipe(given.recipe, overrides)
    options = PreferOptions(given.source, given.prompts, given.labels, given.held_out, given.pairs)
    return recipe, options, Path(given.out)
