"""Checkpoints in a run's folder: ``checkpoint-STEP``. ``checkpoint-STEP.damaged`` is one that failed its check."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from gpg_vl.files import may_be_on_hub
from gpg_vl.screen import say_once

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
    ends = itertools.chain([".damaged"], (f".damaged-{n}" for n in itertools.count(2)))
    paths = (folder.with_name(folder.name + end) for end in ends)
    return folder.rename(next(path for path in paths if not path.exists()))


def is_model_folder(folder: Path) -> bool:
    """Whether it holds a model, or an adapter of one."""
    return (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()


def resolve_model_path(path: str) -> str:
    """The folder that holds the model: ``path`` itself, or the newest checkpoint in it if it is a run folder.

    Anything that is not a local folder is returned unchanged, as the name of a model on the hub.

    Raises:
        ValueError: ``path`` looks like a local path but is not a folder with a model or a checkpoint
    """
    folder = Path(path)
    if not folder.is_dir():
        if not may_be_on_hub(path):
            raise ValueError(f"model.path: no folder {path!r}; give a model folder, a run folder or a name on the hub")
        say_once(f"loading {path} from the hub")
        return path
    if is_model_folder(folder):
        return path
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise ValueError(f"model.path: {path} has neither a config.json nor a checkpoint-N folder")
    return str(checkpoints[-1])
