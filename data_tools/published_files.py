"""Small files in exactly the format of each published source."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from PIL import Image

from gpg_vl.data.tables import without_progress_bars


def picture(number: int = 0, size: tuple[int, int] = (120, 90), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A different picture for every number, as the bytes of a file."""
    stream = BytesIO()
    Image.new("RGB", size, (40 * number % 256, 90, 200)).convert(mode).save(stream, kind)
    return stream.getvalue()


def write_image_rows(path: Path, rows: Sequence[dict[str, Any]], kind: str = "PNG", mode: str = "RGB") -> Path:
    """Parquet as pushed by ``datasets``, with an Image column ``image``; rows give its bytes, or a number."""
    others = {
        name: datasets.List(datasets.Value("string")) if isinstance(value, list) else datasets.Value("string")
        for name, value in rows[0].items()
        if name != "image"
    }
    features = datasets.Features({"image": datasets.Image(), **others})
    made = [row | {"image": {"bytes": _encode(row["image"], kind, mode), "path": None}} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        datasets.Dataset.from_list(made, features=features).to_parquet(str(path))
    return path


def _encode(image: int | bytes, kind: str, mode: str) -> bytes:
    return image if isinstance(image, bytes) else picture(image, kind=kind, mode=mode)


def write_sat(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """SAT_SPLIT.parquet: bytes of JPEG files in a list, options as a list."""
    schema = pyarrow.schema(
        {
            "image_bytes": pyarrow.list_(pyarrow.binary()),
            "question": pyarrow.string(),
            "answers": pyarrow.list_(pyarrow.string()),
            "question_type": pyarrow.string(),
            "correct_answer": pyarrow.string(),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), path)
    return path


def sat_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "image_bytes": [picture(number)],
        "question": "Is the chair left or right of the table?",
        "answers": ["left", "right"],
        "question_type": "obj_movement",
        "correct_answer": "left",
    }
    return row | changes


def write_lines(path: Path, rows: Sequence[dict[str, Any]], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding)
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
