"""YAML file plus ``--a.b value`` -> Recipe. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from gpg_vl.config import LoraConfig, Recipe, RecordConfig
from gpg_vl.recipe_aliases import SAME_VALUES, key_of, leaves
from gpg_vl.user_code import absolute_spec

_SECTIONS: dict[str, Any] = {
    name: hint for name, hint in get_type_hints(Recipe).items() if dataclasses.is_dataclass(hint)
}
KNOWN_KEYS = [
    "task",
    "tasks",
    *(f"{name}.{field.name}" for name, c in _SECTIONS.items() for field in dataclasses.fields(c)),
]

MAX_RECIPE_BYTES = 2**18

_TYPES: dict[str, Any] = {
    f"{name}.{key}": hint
    for name, section in [*_SECTIONS.items(), ("model.lora", LoraConfig), ("run.record", RecordConfig)]
    for key, hint in get_type_hints(section).items()
} | {key: get_type_hints(Recipe)[key] for key in ("task", "tasks")}
_LISTS = {key for key, hint in _TYPES.items() if get_origin(hint) is list}
_UNIONS = (Union, UnionType)
_WANTED: dict[Any, str] = {
    int: "give a whole number",
    float: "give a number",
    bool: "give true or false",
    str: "give a text",
    list: "give a list",
    dict: "give a mapping of names to values",
    tuple: "give a list of two numbers",
    NoneType: "null",
}

_NESTED = (
    "rewards.weights",
    "run.stop_when",
    "model.lora",
    "rollout.refresh",
    "rollout.vllm",
    "run.record",
    "update.learning_rates",
    "update.schedule_options",
)


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
    arguments: list[str] = []
    recipes: list[Mapping[str, Any]] = []
    if saved is not None:
        _check_keys(saved, "the recipe saved with the model")
        arguments += ["--config", yaml.safe_dump(dict(saved))]
        recipes.append(saved)
    for file in [path] if isinstance(path, str) else path or ():
        keys = read_yaml(file)
        _check_keys(keys, f"recipe {file}")
        arguments += ["--config", _config_word(file, keys)]
        recipes.append(keys)
    for word in overrides:
        if word.startswith("--"):
            _check_key(word[2:].split("=")[0].rstrip("+"), f"option {word.split('=')[0]}")
    words = _read_words(overrides)
    recipes += _as_recipes(overrides)
    _refuse_null(recipes)
    try:
        namespace = _build_parser().parse_args([*arguments, *words])
        values = _build_parser().instantiate(namespace)
    except (ArgumentError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(_describe_error(str(error), recipes)) from error
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
        elif section not in ("task", "tasks"):
            _refuse_section(str(section), keys, where)


def _refuse_section(section: str, keys: Any, where: str) -> None:
    """
    Raises:
        ValueError: names the section, or the first key in it that another kit has and this one too
    """
    foreign = (leaf for leaf in leaves(section, keys) if key_of(leaf, KNOWN_KEYS) is not None)
    _check_key(next(foreign, section), where, [*_SECTIONS, "task", "tasks"])


def read_yaml(path: str) -> dict[str, Any]:
    """The keys of a recipe file, which may come from anybody: it is small, plain data, without aliases.

    Raises:
        ValueError: it is missing, too large, no YAML or has no keys; one line
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_RECIPE_BYTES + 1)
        recipe = None if len(content) > MAX_RECIPE_BYTES else parse_yaml(content.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"recipe {path}: no such file in {Path.cwd()}; the recipe comes first") from error
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
    if own := key_of(key, KNOWN_KEYS):
        raise ValueError(f"{where}: unknown key {key}; here it is {own} (gpg-vl train --help)")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else "; gpg-vl train --help explains all keys"
    raise ValueError(f"{where}: unknown key {key}{hint}")


def _config_word(path: str, keys: Mapping[str, Any]) -> str:
    """The recipe for the parser: its path, or its text where a value is said in other words."""
    said = {section: _said(section, value) for section, value in keys.items()}
    return path if said == keys else yaml.safe_dump(said, allow_unicode=True, sort_keys=False)


def _said(name: str, value: Any) -> Any:
    """A value as the parser takes it: one entry is a list of one, ``bf16`` is ``bfloat16``."""
    if isinstance(value, dict) and (name in _SECTIONS or name == "model.lora"):
        return {key: _said(f"{name}.{key}", each) for key, each in value.items()}
    if name in _LISTS and isinstance(value, str | dict):
        return [value]
    return SAME_VALUES.get(name, {}).get(value, value) if isinstance(value, str | bool) else value


def _read_words(words: Sequence[str]) -> list[str]:
    """``--key VALUE`` and ``--key=VALUE`` with the values as the parser takes them."""
    said = list(words)
    for place, word in enumerate(words):
        key, sign, value = word.partition("=")
        if sign and key.startswith("--"):
            said[place] = f"{key}={_said_word(key[2:], value)}"
        elif place and words[place - 1].startswith("--") and "=" not in words[place - 1]:
            said[place] = _said_word(words[place - 1][2:], word)
    return said


def _said_word(name: str, word: str) -> str:
    if name not in _LISTS and name not in (*SAME_VALUES, "model.lora"):
        return word
    value = _parse_word(word)
    said = _said(name, value)
    return word if said == value else said if isinstance(said, str) else as_word(said)


def _parse_word(word: str) -> Any:
    try:
        return parse_yaml(word)
    except ValueError:
        return word


def _as_recipes(words: Sequence[str]) -> list[dict[str, Any]]:
    """Each override as a recipe would say it, for messages alone."""
    recipes = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, sign, value = word.partition("=")
        if word.startswith("--") and (sign or following):
            said: Any = _parse_word(value if sign else following)
            for key in reversed(name.removeprefix("--").split(".")):
                said = {key: said}
            recipes.append(said)
    return recipes


def _refuse_null(recipes: Sequence[Mapping[str, Any]]) -> None:
    """The parser takes null for any key."""
    for recipe in recipes:
        for key, hint in _TYPES.items():
            values = _find(recipe, key)
            if values == [None] and NoneType not in get_args(hint):
                raise ValueError(f"{key} is null; {_wanted(hint)}")


def _describe_error(message: str, recipes: Sequence[Mapping[str, Any]]) -> str:
    """The key, its value and what it can be; what the parser says where it names no key that the kit has."""
    key = ".".join(re.findall(r'[Kk]ey "([\w.]+)"', message))
    values = [value for recipe in recipes for value in _find(recipe, key)]
    if key not in _TYPES or not values:
        return _telling_lines(message)
    return f"{key} is {_short(values[-1])}; {_wanted(_TYPES[key])}"


def _find(recipe: Mapping[str, Any], key: str) -> list[Any]:
    """The value under a dotted key; [] where there is none."""
    value: Any = recipe
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return []
        value = value[name]
    return [value]


def _wanted(hint: Any) -> str:
    """What a key can be, in a few words."""
    if get_origin(hint) in _UNIONS:
        return ", or ".join(_wanted(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        *most, last = map(str, get_args(hint))
        return f"choose {', '.join(most)} or {last}"
    return _WANTED.get(hint) or _WANTED.get(get_origin(hint), "give a mapping of its keys")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
