"""Writes samples to a file of kit rows for ``load_source``. Rows are streamed; the file appears once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from gpg_vl.data.image_folder import ImageFolder, images_when_done
from gpg_vl.data.images import read_image_file
from gpg_vl.data.json_text import write_json
from gpg_vl.data.schema import FEATURES, SCHEMA_VERSION, VERSION_FIELD
from gpg_vl.data.videos import VideoSource, read_video_file
from gpg_vl.files import unfinished
from gpg_vl.records import FrameList, Sample

ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 2**24  # of images; bounds what is in memory at once


def write_parquet(samples: Iterable[Sample], path: str | Path) -> None:
    """Writes kit rows with the bytes of their images, and ``meta`` as JSON: one self-contained file.

    Raises:
        ValueError: a row has a video
    """
    schema = FEATURES.arrow_schema
    with replace_when_done(path) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        for rows in _group_rows(samples):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def write_jsonl(samples: Iterable[Sample], path: str | Path) -> None:
    """Writes kit rows as JSON lines; images from elsewhere go into the folder ``NAME_images`` next to the file."""
    with (
        replace_when_done(path, alone=True) as partial,
        images_when_done(Path(path)) as folder,
        partial.open("w", encoding="utf-8") as file,
    ):
        for number, sample in enumerate(samples, start=1):
            images = [folder.save(source, f"{number}-{k}") for k, source in enumerate(sample.images)]
            videos = [_save_video(source, folder, f"{number}-v{k}") for k, source in enumerate(sample.videos)]
            row = {**_plain_fields(sample), "images": images, "meta": sample.meta}
            file.write(write_json({**row, "videos": videos} if videos else row) + "\n")


@contextmanager
def replace_when_done(path: str | Path, alone: bool = False) -> Iterator[Path]:
    """A file of its own next to ``path`` that replaces it when the block ends and is removed when the block fails.

    What a killed process leaves behind is removed by the next attempt.

    Args:
        alone: whether a second process is refused, which also has images to replace

    Raises:
        ValueError: ``path`` is a folder; or another process is writing it, and ``alone``
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder; give the name of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(target, alone) as partial:
        yield partial
        os.replace(partial, target)


def _group_rows(samples: Iterable[Sample]) -> Iterator[list[dict[str, Any]]]:
    """Parquet rows in groups of limited size, which bounds memory."""
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for sample in samples:
        if sample.videos:
            raise ValueError(f"sample {sample.id} has a video; rows with videos go into a .jsonl file")
        images = [_embed_image(source) for source in sample.images]
        meta = write_json(sample.meta)
        rows.append({**_plain_fields(sample), "images": images, "meta": meta})
        num_bytes += sum(len(image["bytes"]) for image in images)
        if len(rows) == ROWS_PER_GROUP or num_bytes >= BYTES_PER_GROUP:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def _save_video(source: VideoSource, folder: ImageFolder, name: str) -> str | dict[str, Any]:
    """The video as a row names it; one from elsewhere is copied."""
    if isinstance(source, FrameList):
        frames = [folder.save(image, f"{name}-{k}") for k, image in enumerate(source.images)]
        return {"frames": frames, "fps": source.fps}
    return folder.save(read_video_file(source) if folder.is_elsewhere(source) else source, name)


def _plain_fields(sample: Sample) -> dict[str, Any]:
    return {
        VERSION_FIELD: SCHEMA_VERSION,
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "answer": sample.answer,
    }


def _embed_image(source: str | bytes) -> dict[str, Any]:
    if isinstance(source, bytes):
        return {"bytes": source, "path": None}
    return {"bytes": read_image_file(source), "path": Path(source).name}
