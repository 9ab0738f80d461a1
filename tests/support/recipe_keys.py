"""docs/recipe-keys.md from the classes of the recipe: ``python -m tests.support.recipe_keys`` writes it anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml

from gpg_vl.config import LoraConfig, Recipe, RecordConfig, RefreshConfig, VllmConfig

PAGE = Path(__file__).parents[2] / "docs/recipe-keys.md"
NESTED = {
    "model.lora": LoraConfig,
    "rollout.refresh": RefreshConfig,
    "rollout.vllm": VllmConfig,
    "run.record": RecordConfig,
}
HEAD = """\
# Every key of a recipe

Made from the code (`gpg_vl/config.py`); `gpg-vl train --help` prints the same. On the command line a key is
`--section.key VALUE`. Which ones to set, and to what: [parameters.md](parameters.md).

## At the top

| key | values | default | meaning |
|---|---|---|---|
| `task` | text or null | `null` | the task of every row: a name or FILE.py:CLASS; null: each row names its own |
| `tasks` | list | `[]` | tasks in files of your own that rows may name, as FILE.py:CLASS |
"""


def write_page() -> str:
    hints = get_type_hints(Recipe)
    sections = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    return HEAD + "".join(_section(name, kind) for name, kind in {**sections, **NESTED}.items())


def _section(name: str, kind: Any) -> str:
    doc = docstring_parser.parse(kind.__doc__)
    said = {each.arg_name: " ".join((each.description or "").split()) for each in doc.params}
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    rows = [f"| `{name}.{each.name}` | {_values(hints[each.name])} | `{_default(each)}` | {_cell(said[each.name])} |\n"
            for each in fields]  # fmt: skip
    about = " ".join(filter(None, [doc.short_description, doc.long_description]))
    return f"\n## `{name}`\n\n{about}\n\n| key | values | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _default(field: dataclasses.Field[Any]) -> str:
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    plain = dataclasses.asdict(made) if dataclasses.is_dataclass(made) and not isinstance(made, type) else made
    plain = list(plain) if isinstance(plain, tuple) else plain
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=10**6).strip().removesuffix("\n...")
        if plain != ""
        else '""'
    )


_WORDS: dict[Any, str] = {
    int: "whole number", float: "number", bool: "true, false", str: "text", list: "list", dict: "mapping",
    tuple: "two numbers", NoneType: "null",
}  # fmt: skip


def _values(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_values, get_args(hint)))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(hint))
    return _WORDS.get(hint) or _WORDS.get(get_origin(hint), "mapping")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
