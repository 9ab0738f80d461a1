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
KNOWN_KEYS = [
    "task",
    "tasks",
    *(f"{name}.{field.name}" for name, c in _SECTIONS.items() for field in dataclasses.fields(c)),
]

MAX_RECIPE_BYTES = 2**18

_NESTED = ("rewards.weights", "run.stop_when", "model.lora", "update.learning_rates", "update.schedule_options")


def load_recipe(
    path: str | Sequence[str] | None, overrides: Sequence[str] = (), saved: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe in ``path``, with ``overrides`` such as ``["--run.steps", "6"]`` on top.

    Given several paths, keys of a later file override those of the earlier ones.

    Args:
        saved: sections and keys below all of them, from a recipe that was saved with a model

    Raises:
        ValueError: no such file, an unknown key, or a value of the wrong type; one line
    """
    arguments = []
    if saved is not None:
        _check_keys(saved, "the recipe saved with the model")
        arguments += ["--config", yaml.safe_dump(dict(saved))]
    for file in [path] if isinstance(path, str) else path or ():
        _check_keys(read_yaml(file), f"recipe {file}")
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
    own_tasks = list(map(absolute_spec, values["tasks"]))
    return Recipe(**sections, task=values["task"] and absolute_spec(values["task"]), tasks=own_tasks)


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
    own_tasks = "tasks in files of your own that rows may name, [FILE.py:CLASS, ...]; a row can name no other file"
    parser.add_argument("--tasks", type=list[str], default=[], help=own_tasks)
    return parser


def _check_keys(recipe: Mapping[str, Any], where: str) -> None:
    for section, keys in recipe.items():
        if section in _SECTIONS and isinstance(keys, dict):
            for key in keys:
                _check_key(f"{section}.{key}", where)
        elif section in _SECTIONS:
            raise ValueError(f"{where}: section {section} is empty; fill it in or remove it")
        else:
            _check_key(str(section), where, [*_SECTIONS, "task", "tasks"])


def read_yaml(path: str) -> dict[str, Any]:
    """The keys of a recipe file, which may come from anybody: it is small, plain data, without aliases.

    Raises:
        ValueError: it is missing, too large, no YAML or has no keys; one line
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
        recipe = None if len(content) > MAX_RECIPE_BYTES else parse_yaml(content.decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not UTF-8; save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"recipe {path} is not valid YAML: {error}") from error
    if len(content) > MAX_RECIPE_BYTES:
        raise ValueError(f"recipe {path} has over {MAX_RECIPE_BYTES} bytes; a recipe has a few thousand")
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path} has no keys; it needs sections such as model: and data:")
    return recipe


def parse_yaml(text: str) -> Any:
    """The value of YAML without aliases, whose nesting could make gigabytes of a few lines.

    Raises:
        ValueError: it is not that; one line
    """
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value itself there")
        return super().compose_node(parent, index)


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
