"""The pages: links, paths and modules that they name exist; docs/add-a-task.md is followed literally (slow)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
PATH = re.compile(r"(?<![\w./-])(?:gpg_vl|tests|scripts|docs|benchmarks|eval|data_tools|\.ci)/[\w./-]*[\w/]")
MODULE = re.compile(r"-m ((?:gpg_vl|benchmarks|eval|data_tools)(?:\.\w+)*)")
PLACEHOLDERS = ("NAME", "bench_NAME")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a code host makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name} links to {name}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {name}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text()
    written = re.findall(r"^```python\n# (\S+)$", text, re.MULTILINE)  # files that the page has its reader write
    for path in PATH.findall(text):
        if path not in written and not any(word in path for word in PLACEHOLDERS):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
    for module in MODULE.findall(text):
        path = ROOT / module.replace(".", "/")
        if path.name not in PLACEHOLDERS:
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), f"{page.name} names {module}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {
        name for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") for name, _ in LINK.findall(page.read_text())
    }
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= linked


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_add_a_task_as_written(tmp_path: Path) -> None:
    bin_folder = tmp_path / ".venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").write_text("")
    (bin_folder / "gpg-vl").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpg_vl "$@"\n')
    (bin_folder / "gpg-vl").chmod(0o755)
    path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = ""
    for kind, text in BLOCK.findall((ROOT / "docs/add-a-task.md").read_text()):
        name = re.match(r"# (\S+)\n", text)
        if kind == "sh":
            ran = subprocess.run(
                ["sh", "-ec", text.replace("source ", ". ./")],
                cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert ran.returncode == 0, f"{text}\n{ran.stdout}"
            output += ran.stdout
        elif kind in ("python", "yaml") and name:
            (tmp_path / name[1]).write_text(text)
    print(output)
    scores = re.findall(r"colour.py:Colour: accuracy (\S+) ", output)
    assert len(scores) == 2 and float(scores[1]) > float(scores[0]), "GPG made it better"
