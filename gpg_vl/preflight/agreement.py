"""What all ranks of a run must have in common: the recipe, and the content of the files that it names.

Paths may differ, since each node may have files of its own. So the files are compared by what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config import Recipe
from gpg_vl.models.folder.paths import resolve_model_path
from gpg_vl.models.weights.lora import find_base
from gpg_vl.preflight.digests import digest_model, digest_settings, find_change
from gpg_vl.preflight.pins import find_changed_pin
from gpg_vl.preflight.sources import CheckedSources
from gpg_vl.processes.collectives import gather_object
from gpg_vl.processes.ranks import RankError, run_together

OF_A_NODE = ("model.device", "data.workers", "run.trackers")
"""What a node has; none of it changes what is trained. The first rank alone writes to trackers."""
_PATHS = ("model.path", "data.image_root", "rewards.preference")
_SOURCES = ("data.train", "data.eval")
_SPECS = ("task", "tasks", "objective.name", "rewards.functions")


def check_same_recipe(recipe: Recipe) -> None:
    """All ranks together.

    Raises:
        RankError: a key has another value on some rank, on all ranks; names it and two values
    """
    recipes = [_by_key(plain) for plain in gather_object([recipe.to_plain()])]
    first, *others = (_comparable(each) for each in recipes)
    for rank, other in enumerate(others, start=1):
        for key in first:
            if other[key] != first[key]:
                raise RankError(
                    f"{key} is {recipes[0][key]!r} on rank 0, but {recipes[rank][key]!r} on rank {rank}; start all "
                    "processes with one recipe"
                )


def _by_key(plain: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section, keys in plain.items():
        values |= (
            {f"{section}.{key}": each for key, each in keys.items()} if isinstance(keys, dict) else {section: keys}
        )
    return values


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ. Of a path that is a key's value stays whether there is one; of code the file's name."""
    kept = {key: value for key, value in values.items() if key not in OF_A_NODE}
    kept |= {key: kept[key] is None for key in _PATHS}
    kept |= {key: [_without_path(entry) for entry in kept[key]] for key in _SOURCES}
    return kept | {key: _without_folders(kept[key]) for key in _SPECS}


def _without_path(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    return {} if isinstance(entry, str) else {key: value for key, value in entry.items() if key != "path"}


def _without_folders(specs: Any) -> Any:
    if isinstance(specs, list):
        return [_without_folders(spec) for spec in specs]
    return Path(specs).name if isinstance(specs, str) and ".py" in specs else specs


@dataclass(frozen=True, slots=True)
class _Content:
    """Of the files that one rank reads."""

    sources: list[tuple[str, str, int, str]]  # key, name, number of rows, digest
    pins: dict[str, str]
    model: tuple[str, str, str] | None  # its path, what of it the rank reads, and a digest of that


def check_same_content(
    checked: Sequence[CheckedSources],
    pins: Mapping[str, str],
    model: Path | None,
    keys: Sequence[str] = _SOURCES,
    *,
    reads_weights: bool = True,
) -> None:
    """All ranks together.

    Args:
        pins: of the user's code and of what else a run goes back to (``pins.take_pins``)
        model: its folder; None where it has none on this machine
        keys: by which the recipe names the sources
        reads_weights: every rank does; else the first one hands them out, and the others need config and processor, of
            an adapter's base too

    Raises:
        RankError: a file's content is another one on some rank, on all ranks; names it, and where it is on the two
    """
    sources = [
        (key, source.name, len(source.samples), digest)
        for key, each in zip(keys, checked, strict=False)
        for source, digest in zip(each.sources, each.digests, strict=True)
    ]
    found = run_together(lambda: None if model is None else _describe_model(model, reads_weights=reads_weights))
    first, *others = gather_object([_Content(sources, dict(pins), found)])
    for rank, other in enumerate(others, start=1):
        difference = _find_difference(first, other, rank)
        if difference is not None:
            raise RankError(f"{difference}; give all processes the same files")


def _describe_model(folder: Path, *, reads_weights: bool) -> tuple[str, str, str]:
    if reads_weights:
        return str(folder), "weights", digest_model(folder)
    base = find_base(str(folder))
    folders = [folder, *([Path(base)] if base is not None and Path(base).is_dir() else [])]
    return str(folder), "config and processor", " ".join(map(digest_settings, folders))


def _find_difference(first: _Content, other: _Content, rank: int) -> str | None:
    for (key, name, num_rows, digest), (_, its_name, its_num_rows, its_digest) in zip(
        first.sources, other.sources, strict=True
    ):
        if change := find_change(its_digest, digest):
            here, there = f"{name} ({num_rows} rows) on rank 0", f"{its_name} ({its_num_rows} rows) on rank {rank}"
            return f"{key}: the {change} of {here} are not those of {there}"
    if pin := find_changed_pin(other.pins, first.pins):
        return f"{pin.key}: the {pin.name} on rank {rank} is not that on rank 0"
    if first.model is not None and other.model is not None and first.model[2] != other.model[2]:
        here, what, _ = first.model
        return f"model.path: the {what} in {here} on rank 0 are not those in {other.model[0]} on rank {rank}"
    return None


def find_model(path: str, revision: str | None) -> Path | None:
    """The local folder of a model; None where it is a name on the hub, whose cache checks it."""
    folder = Path(resolve_model_path(path, revision))
    return folder if folder.is_dir() else None
