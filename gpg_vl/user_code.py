"""Runs a user's own Python file: where a task, an objective or a reward function is named by path."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

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
        kind: what messages call it, as "task"

    Raises:
        ValueError: no such file or class, the file does not import, or the class extends something else; one line
    """
    found = vars(run_file(path)).get(class_name)
    if found is None:
        raise ValueError(f"{path} has no class {class_name!r}; name the {kind} as {path.name}:ClassName")
    if not isinstance(found, type) or not issubclass(found, base):
        parent = f"{base.__module__}.{base.__name__}"
        raise ValueError(f"{class_name} in {path} is not a {kind}; make it a subclass of {parent}")
    return found


class CodeMistake(TypeError, ValueError):
    """What the user's code takes or returns is not what the kit asks for, whatever the completion.

    Args:
        message: one line
        code: the function or method that it is about, for its file and line
    """

    def __init__(self, message: str, code: Callable[..., Any] | None = None):
        super().__init__(message)
        self.place = "" if code is None else _place_of(code)


def as_number(value: Any) -> float | None:
    """A number, also a bool or one element of numpy or torch, as a float; None where it is something else."""
    item = getattr(value, "item", None)
    try:
        value = item() if callable(item) and not isinstance(value, Real) else value
    except (TypeError, ValueError, RuntimeError):  # an array of several
        return None
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def describe_error(error: BaseException) -> str:
    """Type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def describe_failure(error: BaseException, own_file: str, max_chars: int) -> str:
    """What the user's code raised, with the line of its file: ``RuntimeError: boom (rew.py:10)``."""
    if isinstance(error, CodeMistake):
        text, place = " ".join(str(error).split()), error.place
    else:
        text, place = describe_error(error), _last_line(error, own_file)
    return text[: max_chars - len(place) - 3] + (f" ({place})" if place else "")


def own_file(spec: str) -> str:
    """The user's file of ``FILE.py:NAME``; "" for a name of the kit."""
    path, _, _ = spec.rpartition(":")
    return path if path.endswith(".py") else ""


def absolute_spec(spec: str) -> str:
    """``FILE.py:NAME`` with the file's absolute path, so that it means the same in every process; a name as it is."""
    path, _, name = spec.rpartition(":")
    return f"{Path(path).resolve()}:{name}" if path.endswith(".py") else spec


def _last_line(error: BaseException, own_file: str) -> str:
    """Where in the user's file the error came by last; "" where it did not."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [line for name, line in lines if name == own_file]
    return f"{Path(own_file).name}:{own[-1]}" if own else ""


def _place_of(code: Callable[..., Any]) -> str:
    while isinstance(code, functools.partial):
        code = code.func
    written = inspect.unwrap(code)
    if not hasattr(written, "__code__"):  # an object that can be called
        written = type(written).__call__
    lines = getattr(getattr(written, "__func__", written), "__code__", None)
    return "" if lines is None else f"{Path(lines.co_filename).name}:{lines.co_firstlineno}"
