"""YAML file plus ``--a.b value`` -> Recipe. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from gpg_vl.config import Recipe
from gpg_vl.own_code import absolute_spec

_SECTIONS: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(Recipe).items() if dataclasses.is_dataclass(hint)
}
KNOWN_KEYS = ["task", *(f"{name}.{field.name}" for name, c in _SECTIONS.items() for field in dataclasses.fields(c))]

_NESTED = (
    "rewards.weights",
    "run.stop_when",
    "model.lora",
    "rollout.refresh",
    "update.learning_rates",
    "update.schedule_options",
)


def load_recipe(path: str | Sequence[str] | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path``, with ``overrides`` such as ``["--run.steps", "6"]`` on top.

    Given several paths, keys of a later file override those of the earlier ones.

    Raises:
        ValueError: no such file, an unknown key, or a value of the wrong type; one line
    """
    arguments = []
    for file in [path] if isinstance(path, str) else path or ():
        _check_file(file)
        arguments += ["--config", file]
    for word in overrides:
        if word.startswith("--"):
            _check_key(word[2:].split("=")[0].rstrip("+"), f"option {word.split('=')[0]}")
    try:
        namespace = _build_parser().parse_args([*arguments, *overrides])
        values = _build_parser().instantiate(namespace)
    except (ArgumentError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(_telling_lines(str(error))) from error
    # Namespace has methods named update and keys: sections are read as items
    sections = {name: values[name] for name in _SECTIONS}
    # the recipe is saved, and later read from other folders
    sections["objective"] = replace(sections["objective"], name=absolute_spec(sections["objective"].name))
    return Recipe(**sections, task=values["task"] and absolute_spec(values["task"]))


def as_word(value: Any) -> str:
    """A value as a word of the command line, which is read as YAML: JSON's escapes are not all YAML's."""
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=False, width=10**9)).strip()


def describe_keys() -> str:
    """Every key with its default and its explanation."""
    return str(_build_parser().format_help())


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="gpg-vl", usage=argparse.SUPPRESS, exit_on_error=False, add_help=False)
    parser.add_argument("--config", action=ActionConfigFile, help=argparse.SUPPRESS)
    for name, section in _SECTIONS.items():
        parser.add_class_arguments(section, name)
    parser.add_argument("--task", type=str | None, default=None, help="task of every row: a name or FILE.py:CLASS")
    return parser


def _check_file(path: str) -> None:
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not UTF-8; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} has no keys; it needs sections such as model: and data:")
    for section, keys in recipe.items():
        if section in _SECTIONS and isinstance(keys, dict):
            for key in keys:
                _check_key(f"{section}.{key}", f"recipe {path}")
        elif section in _SECTIONS:
            raise ValueError(f"recipe {path}: section {section} is empty; fill it in or remove it")
        else:
            _check_key(str(section), f"recipe {path}", [*_SECTIONS, "task"])


def _check_key(key: str, where: str, known: Sequence[str] = KNOWN_KEYS) -> None:
    if key in known:
        return
    if any(key.startswith(f"{free}.") for free in _NESTED):
        return  # an entry of a dict
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else "; gpg-vl train --help explains all keys"
    raise ValueError(f"{where}: unknown key {key}{hint}")


_NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Problem with given class_path", "Given value")


def _telling_lines(message: str) -> str:
    """The start of the message; for a key that may be null, only what is wrong with its value."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOISE) and line != "Expected a <class 'NoneType'>"]
    return " ".join(telling[:3])


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ between two recipes, with both values."""
    changes: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict) and not prefix:
            changes |= changed_keys(a, b, f"{name}.")
        elif a != b:
            changes[name] = (a, b)
    return changes
