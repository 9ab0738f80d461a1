"""Small files that are whole at any time: what ends a process while it writes one leaves the old one."""

from __future__ import annotations

from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8; half of a surrogate pair, which UTF-8 does not have, as JSON writes it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
