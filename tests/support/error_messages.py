"""The messages of the kit's errors, read from its code, and the table of them in docs/errors.md.

``python -m tests.support.error_messages`` writes the table anew.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/errors.md"
START, END = "<!-- messages -->\n", "<!-- end of messages -->\n"
FOLDERS = ("gpg_vl", "data_tools", "eval")
NOT_SAID = {
    "AssertionError",
    "EOFError",
    "GarbledError",
    "Interrupted",
    "KeyError",
    "NotImplementedError",
    "SystemExit",
}
"""Raised for other code, which catches them."""


@dataclass(frozen=True, slots=True)
class Message:
    text: str  # with {name} for a value that it is told with, {} for one that has no name
    module: str  # as in gpg_vl/config.py


def all_messages() -> list[Message]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    found = [each for module, source in sources.items() for each in messages_of(source, module)]
    return list(dict.fromkeys(found))


def messages_of(source: str, module: str) -> Iterator[Message]:
    """What each ``raise ERROR(TEXT)`` and each ``_require(CONDITION, TEXT)`` says."""
    for function in _functions(ast.parse(source)):
        texts = _assigned_texts(function)
        for node in _own_nodes(function):
            said = _said(node)
            for text in [] if said is None else _texts(said, texts):
                if text.replace("{}", "").strip():
                    yield Message(text, module)


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own_nodes(child)


def _said(node: ast.AST) -> ast.expr | None:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        return None if isinstance(node.exc.func, ast.Name) and node.exc.func.id in NOT_SAID else node.exc.args[0]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_require":
        return node.args[1]
    return None


def _assigned_texts(function: ast.AST) -> dict[str, ast.expr]:
    """The texts that local names stand for, where they are assigned once."""
    found: dict[str, list[ast.expr]] = {}
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _texts(node: ast.expr, names: dict[str, ast.expr]) -> list[str]:
    """The texts that an expression can be; none where it is not written out here."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(map(_piece, node.values))]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, names) + _texts(node.orelse, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        ends = _texts(node.right, names) or [_piece(node.right)]
        return [start + end for start in _texts(node.left, names) for end in ends]
    known = names.get(node.id) if isinstance(node, ast.Name) else None
    if isinstance(known, ast.JoinedStr | ast.Constant | ast.IfExp | ast.BinOp):
        return _texts(known, {})
    return []


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    value = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(value, ast.Name):
        return f"{{{value.id}}}"
    return f"{{{value.attr}}}" if isinstance(value, ast.Attribute) else "{}"


def write_table(messages: list[Message]) -> str:
    """A heading and a table for each room."""
    rooms: dict[str, list[Message]] = {}
    for each in messages:
        rooms.setdefault(_room_of(each.module), []).append(each)
    return "\n".join(
        f"### `{room}`\n\n| message | file |\n|---|---|\n" + "".join(sorted(map(_row, members)))
        for room, members in sorted(rooms.items())
    )


def _room_of(module: str) -> str:
    folder, name, *_ = module.split("/")
    return folder if folder != "gpg_vl" or name.endswith(".py") else f"{folder}/{name}"


def _row(message: Message) -> str:
    text = message.text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return f"| {text} | {message.module.rpartition('/')[2]} |\n"


def replace_table(page: str, table: str) -> str:
    head, _, rest = page.partition(START)
    return f"{head}{START}\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(replace_table(PAGE.read_text(encoding="utf-8"), write_table(all_messages())), encoding="utf-8")
