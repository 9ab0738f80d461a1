"""Commands read and write UTF-8 in any locale."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kit_rows import kit_row

ROOT = Path(__file__).parents[2]
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("module", ["gpg_vl", "data_tools.check"])
def test_a_locale_without_utf8(tmp_path: Path, module: str) -> None:
    folder = tmp_path / "Straße 😀"
    folder.mkdir()
    row = kit_row(question="Wie groß ist 😀?", answer="vier")
    (folder / "Zeilen.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    recipe = "model: {path: Straße 😀}\ndata: {train: ['Straße 😀/Zeilen.jsonl']}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    words = ["train", "Straße 😀/recipe.yaml"] if module == "gpg_vl" else ["Straße 😀/Zeilen.jsonl"]
    env = {**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    said = (ran.stdout + ran.stderr).decode("utf-8")
    assert "Straße 😀/Zeilen.jsonl" in said and "vier" in said and "Traceback" not in said, said
    assert ran.returncode == (2 if module == "gpg_vl" else 1)


METHODS = ("open", "read_text", "write_text")


def is_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file as text and does not say how it is encoded."""
    is_method = isinstance(call.func, ast.Attribute)
    name = getattr(call.func, "attr" if is_method else "id", "")
    if name not in (METHODS if is_method else ("open",)) or any(word.arg == "encoding" for word in call.keywords):
        return False
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    is_module = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in NO_TEXT
    return not is_module and "utf-8" not in texts and not any("b" in text and len(text) <= 3 for text in texts)


NO_TEXT = ("os", "Image", "tarfile", "gzip", "JOURNAL", "warnings", "av", "server")
"""What has an ``open`` that opens no text."""


def test_every_text_file_is_opened_as_utf8() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("gpg_vl", "data_tools", "eval", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and is_without_encoding(node)
    ]
    assert found == []
    assert is_without_encoding(ast.parse("Path('x').read_text()").body[0].value)  # type: ignore[attr-defined]
