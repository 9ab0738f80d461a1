"""Where checkpoints lie in a run's folder: ``checkpoint-STEP``; ``checkpoint-STEP.damaged`` is one no more."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def checkpoint_step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first. Each was complete once: it got its name last."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_step)


def set_aside(folder: Path) -> Path:
    """Renames a checkpoint that is none, or not to be found any more; returns its new path."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)
