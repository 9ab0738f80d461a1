"""Paths in a saved recipe: absolute, so that the recipe means the same in every folder.

When a run is resumed, a relative path of the recipe means the same as an absolute one that ends in it: the folder of
rows, model and recipe may have been moved as a whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpg_vl.user_code import absolute_spec

PlainRecipe = dict[str, Any]
KeyPath = tuple[str | int, ...]
"""Keys and positions that lead to a value: ``("data", "train", 0, "path")``."""

_KEYS: tuple[tuple[str, str], ...] = (
    ("model", "path"),
    ("data", "image_root"),
    ("rewards", "preference"),
    ("run", "output_dir"),
)


def with_absolute_paths(plain: PlainRecipe) -> PlainRecipe:
    """A recipe with the paths that are there now as absolute ones; a name on the hub is left as it is."""
    return _replace(plain, {place: _make_absolute(place, path) for place, path in _find(plain).items()})


def spelled_as(saved: PlainRecipe, now: PlainRecipe) -> PlainRecipe:
    """``saved`` with its paths written as in ``now``, where both mean the same."""
    wanted = _find(now)
    same = {place: wanted[place] for place, path in _find(saved).items() if _is_same(path, wanted.get(place))}
    return _replace(saved, same)


def _find(plain: Mapping[str, Any]) -> dict[KeyPath, str]:
    found: dict[KeyPath, Any] = {(section, key): plain[section].get(key) for section, key in _KEYS}
    for key in ("train", "eval"):
        for number, entry in enumerate(plain["data"].get(key) or ()):
            is_dict = isinstance(entry, dict)
            found[("data", key, number, *(["path"] if is_dict else []))] = entry.get("path") if is_dict else entry
    for number, spec in enumerate(plain["rewards"].get("functions") or ()):
        found["rewards", "functions", number] = spec
    return {place: path for place, path in found.items() if isinstance(path, str) and path}


def _replace(plain: PlainRecipe, paths: Mapping[KeyPath, str]) -> PlainRecipe:
    changed = copy.deepcopy(plain)
    for (*way, last), path in paths.items():
        holder: Any = changed
        for key in way:
            holder = holder[key]
        holder[last] = path
    return changed


def _make_absolute(place: KeyPath, path: str) -> str:
    if place[:2] == ("rewards", "functions"):
        return absolute_spec(path)
    is_pattern = any(sign in path for sign in "*{") and Path(path).parent.is_dir()
    is_local = place == ("run", "output_dir") or Path(path).exists() or is_pattern
    return os.path.abspath(path) if is_local else path


def _is_same(saved: str, now: str | None) -> bool:
    if now is None or saved == now or os.path.abspath(saved) == os.path.abspath(now):
        return now is not None
    if os.path.isabs(now) or not os.path.isabs(saved):
        return False
    end = [part for part in Path(os.path.normpath(now)).parts if part not in (".", "..")]
    return bool(end) and list(Path(saved).parts[-len(end) :]) == end
