"""``gpg-vl recipes``: the recipes, launcher and DeepSpeed files that come with the kit, listed and written out."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import gpg_vl

_PACKAGE = Path(gpg_vl.__file__).parent
LAUNCHER = "launcher"
_LAUNCHER_FILES = ("train.sh", "deepspeed/*.json", "slurm/*.sbatch")


def shipped_folder() -> Path:
    """Where they are: in an installed package (setup.py puts them there), or in the checkout."""
    installed = _PACKAGE / "scripts"
    return installed if installed.is_dir() else _PACKAGE.parent / "scripts"


def list_recipes() -> dict[str, str]:
    """What each is for, by the name that ``write_recipe_files`` takes."""
    folder = shipped_folder() / "recipes"
    recipes = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    about = {name: _first_sentence(path) for name, path in recipes.items()}
    return {**about, LAUNCHER: "scripts/train.sh for several GPUs or nodes, with its DeepSpeed files and a Slurm job."}


def describe_recipes() -> str:
    """A line for each."""
    known = list_recipes()
    return "\n".join(f"{name:{max(map(len, known))}}  {about}" for name, about in known.items())


def _first_sentence(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".") + "."


def write_recipe_files(name: str, folder: Path) -> list[Path]:
    """Copies a recipe to ``folder/NAME.yaml``, or the launcher and its files to ``folder/scripts``; the new files.

    Raises:
        ValueError: no such recipe, or a file is there already
    """
    source = shipped_folder()
    if name == LAUNCHER:
        found = [path for pattern in _LAUNCHER_FILES for path in sorted(source.glob(pattern))]
        pairs = [(path, folder / "scripts" / path.relative_to(source)) for path in found]
    else:
        known = list_recipes()
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise ValueError(f"no recipe {name!r}; {hint}the recipes are {', '.join(known)}")
        pairs = [(source / "recipes" / f"{name}.yaml", folder / f"{name}.yaml")]
    for _, target in pairs:
        if target.exists():
            raise ValueError(f"{target} is there already; move it away, or write to another --out")
    for path, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return [target for _, target in pairs]
