"""The sample that ``gpg-vl ask`` asks, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpg_vl.data.images import open_image
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task

ANY_TASK = "any"


def read_question(images: Sequence[str], question: str, task: str | None, answer: str | None) -> Sample:
    """
    Args:
        images: paths of image files
        task: name or FILE.py:CLASS; None: the question is asked as it is

    Raises:
        ValueError: no such image or task, an image that cannot be opened, ``answer`` without ``task``, or an answer
            that the task cannot read
    """
    if answer is not None and task is None:
        raise ValueError("--answer needs --task: the task knows how to score it")
    for image in images:
        if not Path(image).is_file():
            raise ValueError(f"--image: no file {image} in {Path.cwd()}")
    found = tuple(str(Path(image).resolve()) for image in images)  # the user may name a link
    for image in found:
        open_image(image)
    sample = Sample("ask", task or ANY_TASK, found, question, answer or "")
    if task is not None:
        loaded = load_task(task)
        if answer is not None:
            loaded.check(sample)
    return sample
