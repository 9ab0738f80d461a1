"""The sample that ``gpg-vl ask`` asks, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpg_vl.data.images import open_image
from gpg_vl.data.videos import FrameSampling, measure_video
from gpg_vl.records import Sample
from gpg_vl.tasks import load_task

ANY_TASK = "any"


def read_question(
    images: Sequence[str],
    videos: Sequence[str],
    sampling: FrameSampling,
    question: str,
    task: str | None,
    answer: str | None,
) -> Sample:
    """
    Args:
        images: paths of image files
        videos: paths of video files
        sampling: which frames of a video the model sees
        task: name or FILE.py:CLASS; None: the question is asked as it is

    Raises:
        ValueError: no such file or task, an image or video that cannot be opened, ``answer`` without ``task``, or an
            answer that the task cannot read
    """
    if answer is not None and task is None:
        raise ValueError("--answer needs --task: the task knows how to score it")
    shown, films = _find(images, "--image"), _find(videos, "--video")
    for image in shown:
        open_image(image)
    for film in films:
        measure_video(film, sampling)
    sample = Sample("ask", task or ANY_TASK, shown, question, answer or "", videos=films)
    if task is not None:
        loaded = load_task(task)
        if answer is not None:
            loaded.check(sample)
    return sample


def _find(paths: Sequence[str], option: str) -> tuple[str, ...]:
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"{option}: no file {path} in {Path.cwd()}")
    return tuple(str(Path(path).resolve()) for path in paths)  # the user may name a link
