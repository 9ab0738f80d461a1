"""The pages: links, paths and modules that they name exist; those that add something are followed literally (slow)."""

from __future__ import annotations

import os
import re
import shutil
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


# --- pages that are followed literally ---


def copy_checkout(folder: Path) -> None:
    """What a page that changes the kit is followed in."""
    for name in ("gpg_vl", "data_tools", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def follow(page: str, folder: Path, library: Path) -> str:
    """Writes the files of a page, makes its changes and runs its commands; what they say.

    Args:
        library: where ``gpg_vl`` is imported from
    """
    environment = make_environment(folder, library)
    output = ""
    for kind, text in BLOCK.findall((ROOT / "docs" / page).read_text()):
        name = re.match(r"# (\S+)\n", text)
        if kind == "sh":
            output += run_block(text, folder, environment)
        elif kind == "diff":
            apply_diff(text, folder)
        elif kind in ("python", "yaml") and name:
            (folder / name[1]).write_text(text)
    print(output)
    return output


def make_environment(folder: Path, library: Path) -> dict[str, str]:
    bin_folder = folder / ".venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").write_text("")
    (bin_folder / "gpg-vl").write_text(f'#!/bin/sh\nexec {sys.executable} -m gpg_vl "$@"\n')
    (bin_folder / "gpg-vl").chmod(0o755)
    path = f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(library)}


def run_block(text: str, folder: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        ["sh", "-ec", text.replace("source ", ". ./")], cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ran.returncode == 0, f"{text}\n{ran.stdout}"
    return ran.stdout


def apply_diff(text: str, folder: Path) -> None:
    """Each part names its file, and replaces lines that stand there once."""
    for part in text.split("--- a/")[1:]:
        name, _, *lines = part.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in ("- ", "+ "))
        path = folder / name.strip()
        assert path.read_text().count(old) == 1, f"{name} has not once:\n{old}"
        path.write_text(path.read_text().replace(old, new))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_add_a_task_as_written(tmp_path: Path) -> None:
    output = follow("add-a-task.md", tmp_path, ROOT)
    scores = re.findall(r"colour.py:Colour: accuracy (\S+) ", output)
    assert len(scores) == 2 and float(scores[1]) > float(scores[0]), "GPG made it better"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("page", "num_tests", "num_runs"),
    [("add-a-model.md", 6, 1), ("add-an-objective.md", 3, 2), ("add-a-rollout-engine.md", 2, 2)],
)
def test_pages_that_change_the_kit_as_written(tmp_path: Path, page: str, num_tests: int, num_runs: int) -> None:
    copy_checkout(tmp_path)
    output = follow(page, tmp_path, tmp_path)
    assert re.findall(r"(\d+) passed in", output) == [str(num_tests)]
    assert output.count("step 2/2  reward") == num_runs
    steps = re.findall(r"^step \d/2  .*  signal (\d+)/4  ", output, re.MULTILINE)
    assert len(steps) == 2 * num_runs and all(map(int, steps))


def test_the_adapter_of_the_page_is_the_tested_one() -> None:
    page = (ROOT / "docs/add-a-model.md").read_text()
    adapter = (ROOT / "gpg_vl/models/llava_onevision.py").read_text()
    assert f"```python\n# gpg_vl/models/llava_onevision.py\n{adapter}```\n" in page
