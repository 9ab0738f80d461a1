"""Rows and limits that benchmarks are tried with on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpg_vl.data.sources import write_jsonl
from tests.support.builders import make_sample

LIMITS = ["--model.dtype", "float32", "--model.min_pixels", "784", "--model.max_pixels", "50176"]
LIMITS += ["--evaluation.max_new_tokens", "3"]


def write_rows(path: Path, num: int, metas: Sequence[dict[str, Any]], **values: str) -> None:
    """Rows with ids of their own, as the converters give each split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = [
        replace(make_sample(seed=n, **values), id=f"{path.stem}-{n}", meta=metas[n % len(metas)]) for n in range(num)
    ]
    write_jsonl(samples, path)


BOX = {"question": "Where is it?", "answer": "[1, 2, 30, 40]"}
SHAPES = {"polygons": [[[1, 2], [30, 2], [30, 40], [1, 40]]]}
