"""Recorded groups -> pictures for trackers: what the model saw, with boxes, beside its answers and what they earned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from gpg_vl.screen import printable

MAX_GROUPS = 4
_WIDTH, _HEIGHT, _MARGIN = 960, 400, 12
_PICTURE = 376  # side of the square that the picture fits
_SIZE, _LINE = 15, 21  # of letters and of lines, in pixels
_CHARS = 66  # of a line
_GOLD, _GUESS, _INK = (0, 140, 60), (200, 30, 60), (20, 20, 20)


def draw_groups(rows: Sequence[Mapping[str, Any]], record: Path) -> dict[str, Image.Image]:
    """By name, a picture for each of the first groups of a step.

    Args:
        rows: as in ``run.record``
        record: its folder
    """
    return {f"groups/{number}": _draw(row, record) for number, row in enumerate(rows[:MAX_GROUPS], start=1)}


def _draw(row: Mapping[str, Any], record: Path) -> Image.Image:
    card = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    shown = [each for each in [*row["images"], *_frames(row)] if each["file"]]
    if shown:
        card.paste(_draw_picture(row, shown[0], record / shown[0]["file"]), (_MARGIN, _MARGIN))
    draw, font = ImageDraw.Draw(card), ImageFont.load_default(_SIZE)
    left = _PICTURE + 2 * _MARGIN if shown else _MARGIN
    for number, (text, colour) in enumerate(_lines(row)):
        draw.text((left, _MARGIN + number * _LINE), text, fill=colour, font=font)
    return card


def _frames(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The frames of a group's videos, in the size in which their boxes are."""
    for video in row["videos"]:
        for frame in video["frames"]:
            yield {"file": frame["file"], "width": video["width"], "height": video["height"]}


def _draw_picture(row: Mapping[str, Any], image: Mapping[str, Any], path: Path) -> Image.Image:
    """The first image, or the first frame of a video, with the gold boxes, and those of the best completion."""
    with Image.open(path) as opened:
        picture = ImageOps.contain(opened.convert("RGB"), (_PICTURE, _PICTURE))
    best: Mapping[str, Any] = max(row["completions"], key=lambda each: each["reward"], default={"boxes": []})
    draw = ImageDraw.Draw(picture)
    for boxes, colour in ((row["boxes"], _GOLD), (best["boxes"], _GUESS)):
        for x1, y1, x2, y2 in boxes:
            left, right = _on_edge(x1, x2, picture.width / image["width"], picture.width)
            top, bottom = _on_edge(y1, y2, picture.height / image["height"], picture.height)
            draw.rectangle([(left, top), (right, bottom)], outline=colour, width=2)
    return picture


def _on_edge(first: float, second: float, scale: float, size: int) -> tuple[float, float]:
    """Two coordinates of the original as those of a picture of ``size`` pixels, in order, none outside of it."""
    low, high = sorted(min(max(each * scale, 0.0), size - 1.0) for each in (first, second))
    return low, high


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    yield _cut(f"{row['task']}: {row['question']}"), _INK
    yield _cut(f"gold: {row['answer']}"), _GOLD
    yield "", _INK
    for each in row["completions"][: (_HEIGHT - 2 * _MARGIN) // _LINE - 3]:
        answer = "(no answer)" if each["answer"] is None else each["answer"]
        yield _cut(f"{each['reward']:6.3f}  {answer}"), _INK


def _cut(text: str) -> str:
    text = printable(text[: 100 * _CHARS])
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 3]}..."
