"""Small files that are always complete: if a process is killed while writing one, the old one remains."""

from __future__ import annotations

from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8; half of a surrogate pair, which UTF-8 does not have, is escaped as in JSON."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
