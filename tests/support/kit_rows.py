"""Rows of the kit in files, and small pictures for them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl.records import Sample


def png(colour: str = "red") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def save_png(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))
    return path


def kit_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"id": f"r{number}", "task": "counting", "images": [], "question": "How many?", "answer": "4"}
    return row | changes


def write_lines(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def demo_samples(image: str | bytes) -> list[Sample]:
    return [
        Sample("a", "counting", (image,), "How many?", "4", {"reasoning": "2 und 2", "level": 1}),
        Sample("b", "geometry", (image, png("blue")), "Wie groß?", "8√{3}cm"),
        Sample("c", "counting", (), "2 + 2?", "4", {"nested": {"deep": [1, None]}}),
    ]
