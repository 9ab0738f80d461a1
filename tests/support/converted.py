"""What every converter's rows have to be: loadable, and right by their own task's strict reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.data.images import read_size
from gpg_vl.data.sources import load_source
from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import score_completion


def read_rows(path: Path) -> list[Sample]:
    """The rows of a converted file, each scored as its own answer: the main part must be 1."""
    samples = list(load_source(str(path)).samples)
    for sample in samples:
        score = score_gold(sample)
        assert score == pytest.approx(1, abs=1e-9), (sample.id, sample.answer)
    return samples


def score_gold(sample: Sample) -> float:
    """What the row's answer earns in its own task, given in original pixels."""
    task = load_task(sample.task)
    task.check(sample)
    sizes = [read_size(image) for image in sample.images]
    views = [ImageView(width, height, width, height, "resized_pixels") for width, height in sizes]
    completion = f"<think></think><answer>{sample.answer}</answer>"
    return score_completion(task, sample, completion, views).parts[task.main_part]


def read_counts(path: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(path.with_suffix(".counts.json").read_text(encoding="utf-8"))
    return counts
