"""``gpg-vl doctor``: each thing that a run needs here is tried, and a line says what was found and what to do.

What needs the libraries is in ``machine_trials``; here are the checks without them, for they may be what is wrong.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import constants
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gpg_vl.commands.finding import Finding
from gpg_vl.config import Recipe
from gpg_vl.errors import first_line

LEAST_DISK, LEAST_SHARED_MEMORY = 10e9, 1e9  # bytes
_HUB_SECONDS = 5.0
_SHOWN = ("gpg-vl", "torch", "transformers", "accelerate", "deepspeed", "peft")


def check_machine(train: Callable[[Recipe], Path]) -> Iterator[Finding]:
    """
    Args:
        train: runs a recipe
    """
    yield check_versions()
    yield check_space("disk", Path(), LEAST_DISK, "checkpoints of a model of 3 B weights take 36 GB each")
    yield check_space("shared memory", Path("/dev/shm"), LEAST_SHARED_MEMORY, "docker run --shm-size 16g gives more")
    yield check_hub()
    try:
        from gpg_vl.commands.machine_trials import try_machine
    except Exception as error:  # noqa: BLE001  whatever a library raises is what the line says
        yield Finding("fails", "libraries", f"they cannot be imported: {type(error).__name__}: {first_line(error)}")
    else:
        yield from try_machine(train)


def check_versions() -> Finding:
    """The libraries against the ranges that this version of the kit is tested with."""
    needed = [each for each in map(Requirement, importlib.metadata.requires("gpg-vl") or ()) if each.marker is None]
    wrong = [lack for each in needed if (lack := lack_of(each)) is not None]
    pythons = SpecifierSet(importlib.metadata.metadata("gpg-vl")["Requires-Python"] or "")
    if platform.python_version() not in pythons:
        wrong.append(f"Python {platform.python_version()} is not {pythons}")
    if wrong:
        return Finding("fails", "versions", f"{'; '.join(wrong)}: pip install -c constraints.txt -e . mends it")
    known = "  ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN)
    others = f"{len(needed)} libraries, all in the tested ranges"
    return Finding("ok", "versions", f"python {platform.python_version()}  {known}  ({others})")


def lack_of(needed: Requirement) -> str | None:
    """What is wrong with the installed version of a library; None if nothing is."""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed.name} is missing"
    if needed.specifier.contains(version, prereleases=True):
        return None
    return f"{needed.name} {version} is not {needed.specifier}"


def check_space(what: str, folder: Path, least: float, hint: str) -> Finding:
    if not folder.is_dir():
        return Finding("missing", what, f"there is no {folder}")
    free = shutil.disk_usage(folder).free
    if free < least:
        return Finding("missing", what, f"{free / 1e9:.1f} GB free in {folder.resolve()}, which is little: {hint}")
    return Finding("ok", what, f"{free / 1e9:.1f} GB free in {folder.resolve()}")


def check_hub() -> Finding:
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "missing", "hub", "HF_HUB_OFFLINE is set: models and data have to be folders or downloaded before"
        )
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS):
            return Finding("ok", "hub", f"{constants.ENDPOINT} answers")
    except (OSError, ValueError) as error:
        text = f"{constants.ENDPOINT} cannot be reached ({first_line(error)}); HF_ENDPOINT names a mirror"
        return Finding("missing", "hub", text)
