"""Tidies up a run's folder. What cannot be removed is said and tried again; it never ends a run.

Only folders of the kit's own names are touched, ``checkpoint-STEP`` and ``checkpoint-STEP.partial``: a file or a link
of such a name is somebody else's.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from gpg_vl.processes.ranks import note

_LEFTOVER = re.compile(r"checkpoint-\d+\.partial")


def partial_folder(final: Path) -> Path:
    """The name of ``final`` while it is incomplete."""
    return final.with_name(f"{final.name}.partial")


def remove_leftovers(output_dir: Path) -> None:
    """Removes what interrupted saves and removals left."""
    for path in output_dir.glob("checkpoint-*.partial"):
        if _LEFTOVER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _remove(path)


def remove_folder(folder: Path) -> None:
    """Removes a checkpoint. First it is renamed: under its own name it must be either complete or gone."""
    try:
        renamed = folder.rename(partial_folder(folder))
    except OSError as error:
        note(f"note: {folder} cannot be removed ({error.strerror}); it is tried again at the next save")
        return
    _remove(renamed)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        note(f"note: {folder} cannot be removed ({error.strerror}); it is tried again at the next save")


def make_room_for(partial: Path) -> None:
    """Removes the folder of that name, and moves away whatever else has it."""
    if partial.is_dir() and not partial.is_symlink():
        _remove(partial)
    elif partial.exists() or partial.is_symlink():
        moved = partial.with_name(f"{partial.name}.moved")
        note(f"note: {partial} is not of this run; it is now {partial.replace(moved).name}")
