"""The pages as a site (`make docs`): every page and key is in it, search finds them, and a broken link ends it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpg_vl.recipes import KNOWN_KEYS

pytest.importorskip("mkdocs", reason="no mkdocs: make docs installs it")

ROOT = Path(__file__).parents[1]


def build(project: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        project / "mkdocs.yml",
        "--site-dir",
        out,
    ]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=project)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    built = build(ROOT, out)
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_there_and_is_searched(site: Path) -> None:
    names = {path.stem for path in ROOT.glob("docs/*.md")} | {"index", "CONTRIBUTING", "CHANGELOG"}
    assert {path.stem for path in site.glob("*.html")} - {"404"} == names
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    assert {each["location"].partition("#")[0].removesuffix(".html") or "index" for each in index} == names


def test_every_key_is_on_its_page(site: Path) -> None:
    page = (site / "recipe-keys.html").read_text(encoding="utf-8")
    assert [key for key in KNOWN_KEYS if f"<code>{key}</code>" not in page] == []


def test_the_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"(?:https?:)?//[^\"]*", text) == []
        assert re.findall(r"<link[^>]*rel=\"(?:stylesheet|preconnect|icon)\"[^>]*href=\"(?:https?:)?//", text) == []


@pytest.mark.parametrize("link", ["nowhere.md", "algorithm.md#nowhere", "../nowhere.md"])
def test_a_broken_link_ends_it(tmp_path: Path, link: str) -> None:
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "scripts/site_pages.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / "docs/doctor.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[a link]({link})\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and "nowhere" in built.stderr
