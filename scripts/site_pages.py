"""Hooks of the site (mkdocs.yml): the pages at the checkout's root, the notebook, and links that fit the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
OTHERS = ("examples/quickstart.ipynb", "LICENSE")
_FROM_DOCS = re.compile(r"(\]\()\.\./")
_FROM_ROOT = re.compile(r"(\]\()docs/")


def on_files(files: Files, config: Any) -> Files:
    """Adds what is not in docs/ under the names that the links of the pages then have."""
    for name, page in PAGES.items():
        text = _FROM_ROOT.sub(r"\1", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    for name in OTHERS:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **more: Any) -> str:
    """A page of docs/ lies beside the pages of the root."""
    return _FROM_DOCS.sub(r"\1", markdown)
