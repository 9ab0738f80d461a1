"""Samples -> a file of kit rows, as ``load_source`` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from gpg_vl.dataset.tables import without_progress_bars
from gpg_vl.records import Sample


def write_parquet(samples: Sequence[Sample], path: str | Path) -> None:
    """Writes kit rows with the bytes of their images and ``meta`` as JSON: one file that needs no other."""
    features = datasets.Features(
        {
            **{name: datasets.Value("string") for name in ("id", "task")},
            "images": datasets.List(datasets.Image()),
            **{name: datasets.Value("string") for name in ("question", "answer", "meta")},
        }
    )
    rows = [
        {
            **_text_fields(sample),
            "images": [_embed_image(source) for source in sample.images],
            "meta": json.dumps(sample.meta, ensure_ascii=False),
        }
        for sample in samples
    ]
    columns = {name: [row[name] for row in rows] for name in features}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))


def write_jsonl(samples: Sequence[Sample], path: str | Path) -> None:
    """Writes kit rows as JSON lines; image bytes become files of the folder ``NAME_images`` beside the file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as file:
        for number, sample in enumerate(samples, start=1):
            images = [_save_image(source, target, f"{number}-{k}") for k, source in enumerate(sample.images)]
            row = {**_text_fields(sample), "images": images, "meta": sample.meta}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _text_fields(sample: Sample) -> dict[str, str]:
    return {"id": sample.id, "task": sample.task, "question": sample.question, "answer": sample.answer}


def _embed_image(source: str | bytes) -> dict[str, Any]:
    if isinstance(source, bytes):
        return {"bytes": source, "path": None}
    return {"bytes": Path(source).read_bytes(), "path": Path(source).name}


def _save_image(source: str | bytes, target: Path, name: str) -> str:
    """The image's path as the row writes it: relative to the file's folder where it lies in it."""
    folder = target.parent.resolve()
    if isinstance(source, str):
        path = Path(source).resolve()
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
    suffixes = {b"\x89PNG": ".png", b"\xff\xd8\xff\xe0": ".jpg", b"\xff\xd8\xff\xe1": ".jpg", b"RIFF": ".webp"}
    path = folder / f"{target.stem}_images" / (name + suffixes.get(source[:4], ".img"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(source)
    return str(path.relative_to(folder))
