"""Checkpoints in a run's folder: ``checkpoint-STEP``. ``checkpoint-STEP.damaged`` is one that failed its check."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def checkpoint_step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first. A folder is only given this name once it is complete."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_step)


def set_aside(folder: Path) -> Path:
    """Renames a checkpoint that is damaged or should no longer be found; returns its new path."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def resolve_model_path(path: str) -> str:
    """The folder that holds the model: ``path`` itself, or the newest checkpoint in it if it is a run folder.

    Anything that is not a local folder is returned unchanged, as the name of a model on the hub.

    Raises:
        ValueError: ``path`` looks like a local path but is not a folder with a model or a checkpoint
    """
    folder = Path(path)
    if not folder.is_dir():
        if not path or path.startswith((".", "/", "~", "runs/")) or path.count("/") > 1:
            raise ValueError(f"model.path: no folder {path!r}; give a model folder, a run folder or a name on the hub")
        return path
    if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
        return path
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise ValueError(f"model.path: {path} has neither a config.json nor a checkpoint-N folder")
    return str(checkpoints[-1])
