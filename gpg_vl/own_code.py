"""Runs a user's own Python file: where a task, an objective or a reward function is named by path."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


@functools.cache
def run_file(path: Path) -> ModuleType:
    """The module that the file makes; it is run once in a process.

    Raises:
        ValueError: there is no such file, or it does not import; one line
    """
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    module_spec = importlib.util.spec_from_file_location(str(path), path)
    assert module_spec is not None and module_spec.loader is not None, path
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's code
        del sys.modules[module.__name__]
        raise ValueError(f"{path} does not import: {describe_error(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_own_class(path: Path, class_name: str, base: type[T], kind: str) -> type[T]:
    """The class of the file that extends ``base``.

    Args:
        kind: what messages call it, as "a task"

    Raises:
        ValueError: no such file or class, the file does not import, or the class extends something else; one line
    """
    found = vars(run_file(path)).get(class_name)
    if found is None:
        raise ValueError(f"{path} has no class {class_name!r}; name {kind} as {path.name}:ClassName")
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(
            f"{class_name} in {path} is not {kind}; make it a subclass of {base.__module__}.{base.__name__}"
        )
    return found


def describe_error(error: BaseException) -> str:
    """Type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def absolute_spec(spec: str) -> str:
    """``FILE.py:NAME`` with the file's absolute path, so that it means the same in every process; a name as it is."""
    path, _, name = spec.rpartition(":")
    return f"{Path(path).resolve()}:{name}" if path.endswith(".py") else spec
