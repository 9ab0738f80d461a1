"""A real browser for the pages that the kit writes, and axe-core, which finds what people with a screen reader miss.

``python -m tests.support.browsers`` opens the browser as the tests do and says what they will find (``.ci/browser``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parents[2] / "build/axe/node_modules/axe-core/axe.min.js"
"""Where ``.ci/browser`` puts it."""
REQUIRED = "BROWSER_TESTS"
"""Where this variable is ``required``, a missing browser or axe-core fails the tests instead of skipping them."""


class NoBrowser(Exception):
    """Says what is missing, and what gives it."""


def open_browser() -> Iterator[Any]:
    """A headless Chromium, as a fixture; the tests are skipped where there is none."""
    try:
        from playwright import sync_api as playwright
    except ImportError:
        lack(NoBrowser("no playwright: pip install -e .[dev]"))
    with playwright.sync_playwright() as p:
        try:
            opened = launch(p)
        except NoBrowser as error:
            lack(error)
        yield opened
        opened.close()


def launch(playwright: Any) -> Any:
    """
    Raises:
        NoBrowser: there is none, or it cannot be opened
    """
    from playwright.sync_api import Error

    try:
        return playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
    except Error as error:
        reason = str(error).splitlines()[0]
        raise NoBrowser(f"no browser ({reason}): playwright install chromium, or Debian's chromium") from error


def find_chromium() -> str | None:
    """Debian's, or another that is on the path; None: playwright's own is tried."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def read_axe() -> str:
    """The script; the test is skipped where there is none."""
    if not AXE.is_file():
        lack(NoBrowser("no axe-core: .ci/browser fetches it from npm"))
    return AXE.read_text(encoding="utf-8")


def lack(what: NoBrowser) -> NoReturn:
    if os.environ.get(REQUIRED) == "required":
        raise what
    pytest.skip(str(what))


def main() -> int:
    """Exit code 0 where the tests have all that they need."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        try:
            browser = launch(p)
        except NoBrowser as error:
            print(error, file=sys.stderr)
            return 1
        page = browser.new_page()
        page.set_content("<title>opened</title>")
        print(f"browser: {find_chromium() or 'of playwright'}, version {browser.version}, page {page.title()!r}")
        browser.close()
    print(f"axe-core: {AXE}" if AXE.is_file() else f"no axe-core: {AXE} is missing", file=sys.stderr)
    return 0 if AXE.is_file() else 1


CONTRASTS = """
() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const words = "h1, h2, h2 span, h3, p, pre, figcaption, summary, td, th, label, a, button, span, .dim, .kind, .item";
  return [...document.querySelectorAll(words)].filter(element => element.textContent.trim()).map(element => {
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}
"""
"""Contrast of each text with its ground, as the web's guidelines measure it: 4.5 is enough to be read."""


if __name__ == "__main__":
    sys.exit(main())
