"""The files of a checkpoint, one step after the other. The first rank alone writes, in any thread."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gpg_vl.config import Recipe
from gpg_vl.files import follow_umask
from gpg_vl.models.adapter import Adapter
from gpg_vl.models.folder.paths import set_aside
from gpg_vl.models.versions import read_versions
from gpg_vl.models.weights.finite import refuse_not_finite
from gpg_vl.run.claim import LostFolder, check_claim
from gpg_vl.run.leftovers import make_room_for
from gpg_vl.run.saved_recipe import RECIPE_FILE, write_recipe
from gpg_vl.run.saved_rollout import Packed, write_rollout
from gpg_vl.run.sealing import seal_folder, sync

STATE_FOLDER = "training_state"
LEARNED_FILE = "discriminator.safetensors"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds beside model and moments, of all ranks, as it was at the end of a step."""

    recipe: Recipe
    state: Mapping[str, Any]
    random_states: Sequence[Mapping[str, Any]]  # by rank
    rollout: Packed | None
    learned: Mapping[str, Tensor] | None


def start_folder(adapter: Adapter, partial: Path, step: int) -> None:
    """
    Raises:
        NotFinite: a weight is NaN or infinite
    """
    way_out = "lower update.learning_rate, and continue from an earlier checkpoint"
    refuse_not_finite(adapter.model, f"the weights after step {step} are not saved", way_out)
    check_claim(partial.parent)
    make_room_for(partial)
    partial.mkdir()  # not its parents: if the output directory vanished (e.g. its disk), it must not be recreated empty
    (partial / STATE_FOLDER).mkdir()


def write_contents(contents: Contents, partial: Path) -> None:
    folder = partial / STATE_FOLDER
    if contents.rollout is not None:
        write_rollout(contents.rollout, folder)
    if contents.learned is not None:
        save_file(dict(contents.learned), folder / LEARNED_FILE)
    write_recipe(contents.recipe, partial / RECIPE_FILE)
    for rank, random_state in enumerate(contents.random_states):
        _write_json(random_state, folder / random_file(rank))
    _write_json(contents.state, folder / "state.json")
    _write_json(library_versions(), folder / "versions.json")


def finish_folder(partial: Path, final: Path) -> None:
    """Seals ``partial`` and renames it to its final name, synced to disk. A folder of that name is set aside."""
    follow_umask(partial)
    seal_folder(partial)
    check_claim(partial.parent)
    if final.exists():
        set_aside(final)
    partial.rename(final)
    sync([final.parent])


def free_space(partial: Path) -> None:
    """Where the disk is full, an incomplete save must not stay; in a folder that is lost, it may be another run's."""
    with suppress(LostFolder):
        check_claim(partial.parent)
        shutil.rmtree(partial, ignore_errors=True)


def library_versions() -> dict[str, str]:
    found = {"python": platform.python_version()} | read_versions(["accelerate", "deepspeed", "peft"])
    with suppress(PackageNotFoundError):
        found["bitsandbytes"] = version("bitsandbytes")
    return found


def random_file(rank: int) -> str:
    return f"random-{rank}.json"


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
