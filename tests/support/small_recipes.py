"""Recipes of few small steps on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.recipes import load_recipe

MakeRecipe = Callable[..., Recipe]

SMALL = {
    "model.dtype": "float32",
    "model.min_pixels": 784,
    "model.max_pixels": 50176,
    "prompt.template": "{question}",
    "objective.beta_th": 0.0,
    "run.eval_every": 0,
    "run.save_total_limit": None,
    "run.trackers": [],
}


def small_recipe(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Recipe:
    """``SMALL``, then ``values`` by dotted key, then ``overrides`` with ``__`` for the dot."""
    keys = {**SMALL, **values, **{key.replace("__", "."): value for key, value in overrides.items()}}
    words = [(f"--{key}", value if isinstance(value, str) else json.dumps(value)) for key, value in keys.items()]
    return load_recipe(None, [word for pair in words for word in pair])
