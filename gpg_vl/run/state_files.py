"""JSON files of a run's state -> records, every value of the type that the record declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

RecordT = TypeVar("RecordT")


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: the file is missing, or holds no JSON object
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({type(error).__name__}); restore it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; restore it")
    return content


def build_record(kind: type[RecordT], plain: Mapping[str, Any], path: Path) -> RecordT:
    """The dataclass made of ``plain``, which was read from ``path``.

    Raises:
        ValueError: a field is missing, unknown or of another type; names it
    """
    hints = get_type_hints(kind)
    optional = {
        each.name
        for each in fields(kind)  # type: ignore[arg-type]
        if each.default is not MISSING or each.default_factory is not MISSING
    }
    for name, hint in hints.items():
        if name not in plain and name in optional:
            continue
        if name not in plain or not _is_of(plain[name], hint):
            raise ValueError(f"{path}: {name} is {str(plain.get(name))[:40]}, which is not a {hint}; restore the file")
    if unknown := sorted(plain.keys() - hints.keys()):
        raise ValueError(f"{path} has {unknown[0]!r}, which this kit does not know; use the kit that wrote it")
    return kind(**plain)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type that is made of numbers, text, lists, dicts and None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is UnionType:
        return any(_is_of(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(_is_of(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(each, arguments[1]) for each in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return value is None if hint in (None, NoneType) else type(value) is hint
