"""Checkpoints in a run's folder: ``checkpoint-STEP``. ``checkpoint-STEP.damaged`` is one that failed its check."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpg_vl.errors import first_line
from gpg_vl.files import may_be_on_hub
from gpg_vl.models.folder.manifest import MANIFEST_FILE, find_damage_once
from gpg_vl.screen import say_once

ADAPTER_CONFIG = "adapter_config.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def is_checkpoint(folder: Path) -> bool:
    """Whether it has the name of one."""
    return _NAME.fullmatch(folder.name) is not None


def checkpoint_step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first. A folder is only given this name once it is complete."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and is_checkpoint(path)]
    return sorted(folders, key=checkpoint_step)


def set_aside(folder: Path) -> Path:
    """Renames a checkpoint that is damaged or should no longer be found; returns its new path."""
    ends = itertools.chain([".damaged"], (f".damaged-{n}" for n in itertools.count(2)))
    paths = (folder.with_name(folder.name + end) for end in ends)
    return folder.rename(next(path for path in paths if not path.exists()))


def is_model_folder(folder: Path) -> bool:
    """Whether it holds a model, or an adapter of one."""
    return (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file()


def resolve_model_path(path: str, revision: str | None = None) -> str:
    """The folder that holds the model: ``path`` itself, or the newest whole checkpoint in it if it is a run folder.

    Anything that is not a local folder is returned unchanged, as the name of a model on the hub; with ``revision``, the
    folder of that state of it, which is downloaded.

    Raises:
        ValueError: ``path`` looks like a local path but is not a folder with a model or a checkpoint, or what it holds
            is not what was written there
    """
    folder = Path(path)
    if not folder.is_dir():
        if not may_be_on_hub(path):
            raise ValueError(f"model.path: no folder {path!r}; give a model folder, a run folder or a name on the hub")
        say_once(f"loading {path} from the hub")
        return path if revision is None else _download(path, revision)
    if is_model_folder(folder):
        if damage := _damage(folder):
            raise ValueError(f"model.path: {path} is damaged ({damage}); use an earlier checkpoint")
        return path
    return str(_newest_whole(folder))


def _download(name: str, revision: str) -> str:
    import huggingface_hub  # late: only this needs it

    download = partial(huggingface_hub.snapshot_download, name, revision=revision, allow_patterns=list(_MODEL_FILES))
    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:  # its first version asks the hub even then
            return str(download(local_files_only=True))
        return str(download())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.revision: {revision} of {name} cannot be loaded from the hub ({first_line(error)}); name a branch, "
            "tag or commit of it"
        ) from error


def newest_undamaged(
    checkpoints: Sequence[Path], find_damage: Callable[[Path], str | None] = find_damage_once
) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint in which ``find_damage`` finds none, if there is one, and the damage of newer ones.

    Args:
        checkpoints: from the oldest to the newest
    """
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints):
        damage = find_damage(path)
        if damage is None:
            return path, damaged
        damaged[path] = damage
    return None, damaged


def _damage(folder: Path) -> str | None:
    """None also where there is no manifest, as in a model from elsewhere."""
    return find_damage_once(folder) if (folder / MANIFEST_FILE).is_file() else None


def _newest_whole(run: Path) -> Path:
    """The checkpoint to use of a run, said in a line; one without a manifest counts as whole."""
    checkpoint, damage = newest_undamaged(find_checkpoints(run), _damage)
    damaged = [f"{path.name} is damaged ({what})" for path, what in damage.items()]
    if checkpoint is not None:
        say_once("; ".join([f"using {checkpoint}", *damaged]))
        return checkpoint
    if damaged:
        raise ValueError(f"model.path: no checkpoint of {run} is whole: {'; '.join(damaged)}; restore one")
    raise ValueError(f"model.path: {run} has neither a config.json nor a checkpoint-N folder; name the model's")
