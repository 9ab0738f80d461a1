"""A real browser, for the pages that the kit writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


def open_browser() -> Iterator[Any]:
    """A headless Chromium, as a fixture; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as p:
        try:
            opened = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser ({str(error).splitlines()[0]}): playwright install chromium, or Debian's chromium")
        yield opened
        opened.close()


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
