"""A row -> what a page shows of it: its picture with boxes, the prompt in pieces, answers and problems."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from PIL import Image

from data_tools.faults import find_answer_fault
from data_tools.row_checks import DataFile, open_file
from gpg_vl.data.images import open_image, original_size
from gpg_vl.data.thumbnails import make_thumbnail
from gpg_vl.data.videos import Video, VideoShape, open_video
from gpg_vl.records import Box, ImageView, Sample, VideoView
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import gold_completion
from gpg_vl.user_code import describe_error
from gpg_vl.verifiers.box_text import parse_detections

if TYPE_CHECKING:
    from data_tools.prompt_reader import PromptReader

MAX_SIDE = 720  # pixels of a picture on the page
ENLARGED_SIDE = 340  # smaller pictures are enlarged to this longer side
MAX_HEIGHT = 520
_FRAMES_SHOWN = 8  # of a video


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the prompt: text of the row and its task, a control token of the model, or the place of an image."""

    kind: Literal["text", "token", "image"]
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the page."""

    uri: str  # data:image/...
    width: int  # of the original, upright
    height: int
    caption: str
    boxes: tuple[Box, ...] = ()  # in original pixels

    @property
    def shown_width(self) -> int:
        """Width on a wide page: small pictures are enlarged, tall ones fit a screen."""
        scale = min(max(1.0, ENLARGED_SIDE / max(self.width, self.height)), MAX_HEIGHT / self.height)
        return max(1, round(self.width * scale))


@dataclass
class Card:
    """One row of the page."""

    number: int
    id: str = ""
    task: str = ""
    answer: str = ""
    completion: str = ""  # the gold answer as the model should write it
    meta: str = ""
    images: list[Shown] = field(default_factory=list)
    prompt: list[Piece] = field(default_factory=list)
    num_tokens: int | None = None
    problem: str = ""  # what is wrong with the row


def make_card(file: DataFile, index: int, reader: PromptReader | None) -> Card:
    """What the page shows of row ``index``, counted from 0; of a bad row, as much as possible.

    Args:
        reader: reader of the model whose prompt is shown; None: what the task asks
    """
    card = Card(index + 1)
    try:
        sample = open_file(file).samples[index]
        card.id, card.task, card.answer = sample.id, sample.task, sample.answer
        card.meta = json.dumps(sample.meta, ensure_ascii=False, indent=1, default=str) if sample.meta else ""
        card.prompt = [Piece("text", sample.question)]  # in case nothing more can be shown
        images = [open_image(source, file.image_hosts, file.shrinks_large) for source in sample.images]
        card.images = [_show(n, image, _gold_boxes(sample) if n == 1 else ()) for n, image in enumerate(images, 1)]
        videos = [open_video(source, file.sampling, file.image_hosts) for source in sample.videos]
        card.images += [shown for n, video in enumerate(videos, 1) for shown in _show_frames(n, video)]
        sizes = [original_size(image) for image in images]
        _fill_in(card, sample, sizes, [video.shape for video in videos], reader)
        fault = find_answer_fault(sample, sizes)
        card.problem = "" if fault is None else fault.detail
    except ValueError as error:
        card.problem = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the task may be the user's code
        card.problem = describe_error(error)
    return card


def _fill_in(
    card: Card,
    sample: Sample,
    sizes: Sequence[tuple[int, int]],
    videos: Sequence[VideoShape],
    reader: PromptReader | None,
) -> None:
    task = load_task(sample.task)
    if reader is None:
        views = tuple(ImageView(w, h, w, h, "resized_pixels") for w, h in sizes)
        views += tuple(VideoView(v.width, v.height, v.width, v.height, "resized_pixels", v.times) for v in videos)
        card.prompt = [Piece("text", task.ask(sample, views))]
    else:
        layout = reader.read(sample, sizes, videos)
        views, card.num_tokens = layout.views, layout.num_tokens
        counts = reader.count_image_tokens(views)
        card.prompt = split_prompt(layout.text, reader.image_placeholder, reader.control_tokens, counts)
        for number, view in enumerate(views[: len(sizes)]):
            caption = f"{card.images[number].caption}, seen as {view.model_width} x {view.model_height}"
            card.images[number] = replace(card.images[number], caption=caption)
    card.completion = gold_completion(task, sample, views)


def split_prompt(
    text: str, placeholder: str, control_tokens: Sequence[str], image_tokens: Sequence[int]
) -> list[Piece]:
    """The pieces of a rendered prompt.

    Args:
        placeholder: what stands for an image in ``text``
        image_tokens: tokens of each image
    """
    pieces: list[Piece] = []
    num_images = 0
    structure = re.compile("(" + "|".join(map(re.escape, (placeholder, *control_tokens))) + ")")
    for part in structure.split(text):
        if part == placeholder:
            pieces.append(Piece("image", f"image {num_images + 1}: {image_tokens[num_images]} tokens"))
            num_images += 1
        elif part:
            pieces.append(Piece("token" if part in control_tokens else "text", part))
    return pieces


def _gold_boxes(sample: Sample) -> tuple[Box, ...]:
    """The boxes in the answer, whatever the task."""
    return tuple(detection.box for detection in parse_detections(sample.answer) or ())


def _show_frames(number: int, video: Video) -> list[Shown]:
    """The first frames that a model sees, with their times."""
    frames = zip(video.frames[:_FRAMES_SHOWN], video.times.seconds, strict=False)
    shown = [(_show(number, frame, ()), seconds) for frame, seconds in frames]
    of_all = f"of {len(video.frames)} frames"
    return [replace(each, caption=f"video {number} at {seconds:.1f} s, {of_all}") for each, seconds in shown]


def _show(number: int, image: Image.Image, boxes: tuple[Box, ...]) -> Shown:
    kind, content = make_thumbnail(image, MAX_SIDE)
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    width, height = original_size(image)  # what boxes are in
    return Shown(uri, width, height, f"image {number}: {width} x {height}", boxes)
