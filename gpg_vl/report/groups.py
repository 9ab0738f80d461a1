"""The recorded groups of a run as records, which a notebook shows with their pictures and rewards."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from gpg_vl.data.images import BadImage, open_image, read_image_file
from gpg_vl.records import Box
from gpg_vl.run.record import IMAGE_NAME, RECORD_FOLDER, read_record
from gpg_vl.screen import printable_lines


@dataclass(frozen=True, slots=True)
class RunCompletion:
    """A sampled completion and what it earned."""

    text: str  # the reasoning that the prompt opened included
    answer: str | None  # what was scored; None if it was not found
    boxes: tuple[Box, ...]  # of the answer, in original pixels
    reward: float
    parts: dict[str, float]  # unweighted
    status: str  # ok, unparsable, timeout or error
    message: str  # what failed, if scoring did
    advantage: float | None  # None in a group that was not trained, or where the update's had a part from log-probs
    log_prob: float | None  # sum over its tokens under the policy that sampled, in nats
    num_tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class RunVideo:
    """Some of the frames that the model saw of a video."""

    frame_files: tuple[Path, ...]  # at most 8, at most 256 pixels a side
    seconds: tuple[float, ...]  # when each of them is shown


@dataclass(frozen=True, slots=True)
class RunGroup:
    """A recorded group. A notebook shows it; text of the model is escaped there."""

    step: int
    id: str
    task: str
    question: str
    answer: str  # gold
    boxes: tuple[Box, ...]  # of the gold answer, in original pixels
    picture_files: tuple[Path, ...]  # at most 512 pixels a side; without pictures that could not be kept
    is_trained: bool
    completions: tuple[RunCompletion, ...]
    videos: tuple[RunVideo, ...] = ()

    def pictures(self) -> list[Image.Image]:
        """
        Raises:
            ValueError: a file is gone or damaged
        """
        return [open_image(str(path)) for path in self.picture_files]

    def _repr_html_(self) -> str:
        pictures = "".join(map(_picture, self.picture_files))
        head = "".join(f"<th>{name}</th>" for name in ("reward", "advantage", "parts", "status", "completion"))
        rows = "".join(map(_row, self.completions))
        title = f"step {self.step} · {_text(self.task)} · {_text(self.id)}"
        asked = f"{_text(self.question)} <b>{_text(self.answer)}</b>"
        pictures += "".join(map(_film, self.videos))
        return f"<div><p>{title}<br>{asked}</p>{pictures}<table><tr>{head}</tr>{rows}</table></div>"


def read_groups(run: Path) -> list[RunGroup]:
    """The recorded groups of a run, by step; empty if it has none.

    Raises:
        ValueError: a file is damaged; names it
    """
    folder = (run / RECORD_FOLDER).resolve()
    return [_group(row, folder) for row in read_record(run)]


def _group(row: Mapping[str, Any], folder: Path) -> RunGroup:
    return RunGroup(
        row["step"], row["id"], row["task"], row["question"], row["answer"], _boxes(row["boxes"]),
        tuple(folder / image["file"] for image in _kept(row["images"])),
        row["is_trained"], tuple(map(_completion, row["completions"])),
        tuple(_video(video["frames"], folder) for video in row["videos"]),
    )  # fmt: skip


def _kept(pictures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that the record has, under a name of its own."""
    return [each for each in pictures if IMAGE_NAME.fullmatch(each["file"] or "")]


def _video(frames: Sequence[Mapping[str, Any]], folder: Path) -> RunVideo:
    kept = _kept(frames)
    return RunVideo(tuple(folder / each["file"] for each in kept), tuple(each["seconds"] for each in kept))


def _completion(row: Mapping[str, Any]) -> RunCompletion:
    parts = {part["name"]: part["value"] for part in row["parts"]}
    kept = {name: value for name, value in row.items() if name not in ("boxes", "parts")}
    return RunCompletion(**kept, boxes=_boxes(row["boxes"]), parts=parts)


def _boxes(boxes: Sequence[Sequence[float]]) -> tuple[Box, ...]:
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes)


def _row(each: RunCompletion) -> str:
    parts = ", ".join(f"{_text(name)} {value:.2f}" for name, value in each.parts.items())
    advantage = "" if each.advantage is None else f"{each.advantage:+.2f}"
    text = f"<pre style='white-space: pre-wrap; text-align: left'>{_text(each.text)}</pre>"
    cells = (f"{each.reward:.2f}", advantage, parts, _text(each.status), text)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _film(video: RunVideo) -> str:
    shown = zip(video.frame_files, video.seconds, strict=True)
    return f"<p>{' '.join(f'{_picture(path)} {seconds:.2f} s' for path, seconds in shown)}</p>"


def _picture(path: Path) -> str:
    try:
        content = base64.b64encode(read_image_file(str(path))).decode()
    except BadImage:
        return "<p>a picture of the record is missing or damaged</p>"
    return f'<img alt="picture of the group" src="data:image/{path.suffix[1:]};base64,{content}">'


def _text(text: str) -> str:
    """Models write what they like."""
    return escape(printable_lines(text))
