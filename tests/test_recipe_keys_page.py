"""docs/recipe-keys.md has every key of a recipe, as the code explains it."""

from __future__ import annotations

import re

from gpg_vl.recipes import KNOWN_KEYS
from tests.support.recipe_keys import PAGE, write_page


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "python -m tests.support.recipe_keys writes it anew"


def test_every_key_is_explained() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \| `(.*)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [key for key in KNOWN_KEYS if key not in {row[0] for row in rows}] == []
    assert [row[0] for row in rows if len(row[3].split()) < 2] == []
