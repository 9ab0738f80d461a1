"""The notebook as it is written: it trains, shows samples with pictures and rewards, and the report inline."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cells(cells: list[str]) -> list[Any]:
    """The value that each cell ends with, as a notebook shows it; None where it ends with a statement."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cells, start=1):
        tree = ast.parse(cell, f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = last.value if isinstance(last, ast.Expr) else None
        shown.append(None if value is None else eval(compile(ast.Expression(value), f"cell {number}", "eval"), names))
    return shown


def test_the_notebook_trains_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture, scored, _, (rewards, scores), group, (_, reward, _), (before, after), report = run_cells(code_cells())
    assert picture.size == (56, 56)
    assert [each.total for each in scored] == pytest.approx([1.2, 0.2, 0.0])
    assert len(rewards) == 8 and len(scores) == 2
    assert max(rewards) > 0.3, "it has learnt to write answers, and some are right"
    assert "data:image/png;base64," in group._repr_html_()
    assert f"<td>{reward:.2f}</td>" in group._repr_html_()
    assert before[0] == after[0] == "accuracy"
    assert {"before", "after"} <= set(re.findall(r"\w+", report.path.read_text(encoding="utf-8")))
    assert report._repr_html_().startswith("<iframe")


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_links_of_the_notebook() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
