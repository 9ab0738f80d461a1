"""The pages: links, paths and modules that they name exist; those that add something are followed literally (slow)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_tools import generate
from gpg_vl.cli import COMMANDS, main
from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.recipes import KNOWN_KEYS
from tests.support.recorded_runs import scored_group, write_run

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


def num_collected(*arguments: str) -> int:
    """How many tests pytest would run here."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments], cwd=ROOT, text=True, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return len(re.findall(r"^tests/\S+::", ran.stdout, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("page", "num_tests", "num_runs"),
    [("add-a-model.md", None, 1), ("add-an-objective.md", 3, 2), ("add-a-rollout-engine.md", 2, 2)],
)
def test_pages_that_change_the_kit_as_written(tmp_path: Path, page: str, num_tests: int | None, num_runs: int) -> None:
    copy_checkout(tmp_path)
    num_tests = num_tests or num_collected("tests/models/test_families.py", "-k", "llava_onevision")
    output = follow(page, tmp_path, tmp_path)
    assert re.findall(r"(\d+) passed(?:, \d+ deselected)? in", output) == [str(num_tests)]
    assert output.count("step 2/2  reward") == num_runs
    steps = re.findall(r"^step \d/2  .*  signal (\d+)/4  ", output, re.MULTILINE)
    assert len(steps) == 2 * num_runs and all(map(int, steps))


def test_the_adapter_of_the_page_is_the_tested_one() -> None:
    page = (ROOT / "docs/add-a-model.md").read_text()
    adapter = (ROOT / "gpg_vl/models/families/llava_onevision.py").read_text()
    assert f"```python\n# gpg_vl/models/families/llava_onevision.py\n{adapter}```\n" in page


# --- blocks of commands ---

COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:gpg-vl|python3?|make|pip|scripts/|eval/|\.venv/|source)\b|scripts/|eval/")
MARK = re.compile(r"<!-- (form|needs a GPU|takes long|elsewhere: (\S+)) -->")
"""Before a block that the test below does not run. form: with placeholders; elsewhere: the file that runs it."""
FOLLOWED = ["add-a-model.md", "add-a-rollout-engine.md", "add-a-task.md", "add-an-objective.md"]
RECIPE = """\
model: {path: models/tiny, dtype: float32, min_pixels: 784, max_pixels: 50176}
data: {train: [rows.jsonl]}
rollout: {prompts_per_step: 2, group_size: 2, max_new_tokens: 4}
run: {steps: 1, output_dir: runs/rloo, eval_every: 0, trackers: []}
"""


@dataclass(frozen=True)
class Block:
    """An indented block whose first line is a command: commands up to an empty line, then what they print."""

    mark: str
    commands: str
    output: tuple[str, ...]


def command_blocks(page: Path) -> list[Block]:
    blocks = []
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?:(<!--[^\n]*-->)\n)?\n((?:    .*\n|\n(?=    ))+)", text):
        mark, lines = found[1] or "", [line.removeprefix("    ") for line in found[2].strip("\n").splitlines()]
        if lines and COMMAND.match(lines[0]):
            end = lines.index("") if "" in lines else len(lines)
            blocks.append(Block(mark, "\n".join(lines[:end]) + "\n", tuple(filter(None, lines[end:]))))
    return blocks


def test_blocks_of_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\nText\n\n    make a \\\n      b\n\n    said\n\nText\n\n<!-- form -->\n\n    gpg-vl ask M\n\n    x: 1\n"
    )
    assert command_blocks(page) == [
        Block("", "make a \\\n  b\n", ("said",)),
        Block("<!-- form -->", "gpg-vl ask M\n", ("x: 1",)),
    ]


def test_every_block_of_commands_is_run_or_marked() -> None:
    fenced = [page.name for page in PAGES if any(kind == "sh" for kind, _ in BLOCK.findall(page.read_text()))]
    assert fenced == FOLLOWED
    blocks = [(page.name, block) for page in PAGES for block in command_blocks(page)]
    assert len(blocks) > 25
    for name, block in blocks:
        found = MARK.fullmatch(block.mark)
        assert found or not block.mark, f"{name}: {block.mark} is no mark; the marks are {MARK.pattern}"
        assert found or name in RUN, f"{name} is not run by this test; mark the block {block.commands!r}, or run it"
        assert not found or not found[2] or (ROOT / found[2]).is_file(), f"{name}: no file {found[2]}"


def test_options_of_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Of gpg-vl, on every page; of the others, what is run finds out."""
    helps: dict[str, str] = {}
    checked = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ {0,4}(?:.* )?gpg-vl ([a-z-]+ .*)$", text, re.MULTILINE):
            command, *words = line.partition("#")[0].split()
            if command not in COMMANDS:
                continue
            if command not in helps:
                assert main([command, "--help"]) == 0
                helps[command] = capsys.readouterr().out
            for option in re.findall(r"--[a-z][\w.-]*", " ".join(words)):
                key = option.removeprefix("--")
                known = (
                    key in KNOWN_KEYS or key.startswith(("section.", "rewards.weights.")) or key in ("debug", "help")
                )
                assert known or option in helps[command], f"{page.name}: gpg-vl {command} has no {option}"
                checked += 1
    assert checked > 30


def prepare_parameters(folder: Path) -> None:
    text = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    found = re.search(r"with this `recipe.yaml`.*?\n\n((?:    .*\n)+)", text)
    assert found is not None
    (folder / "recipe.yaml").write_text(re.sub("^    ", "", found[1], flags=re.MULTILINE))


def prepare_run(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE)
    write_tiny_model(folder / "models/tiny")
    generate.main(["--task", "counting", "--num", "8", "--seed", "0", "--out", str(folder / "rows.jsonl")])
    write_run(folder / "runs/mine", [0.5, 0.6], [scored_group(["<answer>4</answer>", "5"], [1.0, 0.0])])


RUN = {
    "parameters.md": prepare_parameters,
    "objectives.md": prepare_run,
    "report.md": prepare_run,
    "gpu.md": lambda folder: None,
}
"""The pages whose blocks are run, with what a reader has by then."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN)
def test_commands_as_written(tmp_path: Path, page: str) -> None:
    environment = make_environment(tmp_path, ROOT)
    RUN[page](tmp_path)
    blocks = [block for block in command_blocks(ROOT / "docs" / page) if not block.mark]
    assert blocks
    for block in blocks:
        ran = subprocess.run(
            ["sh", "-ec", block.commands], cwd=tmp_path, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        refused = any(line.startswith("gpg-vl ") for line in block.output)
        assert (ran.returncode == 2) == refused and ran.returncode in (0, 2), f"{block.commands}\n{ran.stdout}"
        assert [line for line in block.output if line not in ran.stdout] == [], ran.stdout
