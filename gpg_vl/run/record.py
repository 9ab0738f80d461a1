"""What ``gpg-vl report`` shows of a run: every k steps all groups, with pictures, boxes, rewards and advantages.

One Parquet file a step, ``record/000010.parquet``, and the pictures beside them, each once under the hash of its
content. A file appears whole, so a killed process loses the step under way and no other. Log-probs are those of the
policy that sampled.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from PIL.Image import Image

from gpg_vl.config import Recipe
from gpg_vl.data.images import BadImage, open_image, original_size
from gpg_vl.data.thumbnails import make_thumbnail
from gpg_vl.data.videos import FrameSampling, open_video
from gpg_vl.errors import first_line
from gpg_vl.files import unfinished
from gpg_vl.objectives.base import Objective
from gpg_vl.processes.collectives import gather_object
from gpg_vl.records import Box, CollectedGroups, Completion, FrameList, Prompt, Reward, ScoredGroup
from gpg_vl.run.claim import check_claim
from gpg_vl.screen import say
from gpg_vl.verifiers.answers import find_answer
from gpg_vl.verifiers.box_text import parse_detections
from gpg_vl.verifiers.box_values import to_original
from gpg_vl.verifiers.reasoning import completion_text

RECORD_FOLDER = "record"
IMAGES_FOLDER = "images"
IMAGE_NAME = re.compile(r"images/[0-9a-f]{32}\.(png|jpeg)")
"""How a record names its pictures; whoever reads one takes no other name for a file."""
MAX_SIDE = 512  # pixels of a picture in the record
MAX_FRAMES = 8  # of a video in the record, of those that the model sees
FRAME_SIDE = 256  # pixels of such a frame
_STEP_FILE = re.compile(r"\d{6,}\.parquet")
_MEGABYTE = 2**20

_BOX = pyarrow.list_(pyarrow.float64())
_IMAGE = pyarrow.struct([("file", pyarrow.string()), ("width", pyarrow.int32()), ("height", pyarrow.int32())])
_FRAME = pyarrow.struct([("file", pyarrow.string()), ("seconds", pyarrow.float64())])
_VIDEO = pyarrow.struct(
    [
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("num_frames", pyarrow.int32()),
        ("frames", pyarrow.list_(_FRAME)),
    ]
)
_PART = pyarrow.struct([("name", pyarrow.string()), ("value", pyarrow.float64())])
_COMPLETION = pyarrow.struct(
    [
        ("text", pyarrow.string()),
        ("answer", pyarrow.string()),
        ("boxes", pyarrow.list_(_BOX)),
        ("reward", pyarrow.float64()),
        ("parts", pyarrow.list_(_PART)),
        ("status", pyarrow.string()),
        ("message", pyarrow.string()),
        ("advantage", pyarrow.float64()),
        ("log_prob", pyarrow.float64()),
        ("num_tokens", pyarrow.int32()),
        ("finished", pyarrow.bool_()),
    ]
)
SCHEMA = pyarrow.schema(
    [
        ("step", pyarrow.int64()),
        ("id", pyarrow.string()),
        ("task", pyarrow.string()),
        ("question", pyarrow.string()),
        ("prompt", pyarrow.string()),
        ("answer", pyarrow.string()),
        ("boxes", pyarrow.list_(_BOX)),
        ("images", pyarrow.list_(_IMAGE)),
        ("is_trained", pyarrow.bool_()),
        ("completions", pyarrow.list_(_COMPLETION)),
        ("videos", pyarrow.list_(_VIDEO)),
    ]
)
"""Boxes are in original pixels; a ``file`` is relative to the folder of the record. Of a video, ``num_frames`` is what
the model sees, and ``frames`` some of them, with their times."""


@dataclass(frozen=True, slots=True)
class RecordedCompletion:
    """One answer as the report shows it."""

    text: str  # the reasoning that the prompt opened included
    answer: str | None  # what was scored, as it was written; None if it cannot be found
    boxes: list[Box]  # in original pixels, if the answer is made of boxes
    reward: float
    parts: list[dict[str, Any]]
    status: str
    message: str
    advantage: float | None  # None in a group that is not trained, and where the update's has a part from log-probs
    log_prob: float | None  # sum over its tokens, in nats
    num_tokens: int
    finished: bool


class Record:
    """The record of a run. What cannot be written is said once: a run does not end over it."""

    def __init__(self, recipe: Recipe, objective: Objective, first_step: int, is_main: bool):
        """
        Args:
            first_step: what an earlier process recorded of later steps is removed
            is_main: whether this rank writes the groups of all ranks
        """
        self._config = recipe.run.record
        self._recipe = recipe
        self._objective = objective
        self._folder = Path(recipe.run.output_dir) / RECORD_FOLDER
        self._is_main = is_main
        self._has_failed = False
        self._every = self._config.every
        if is_main:
            steps = _files_by_step(self._folder)
            for step in [step for step in steps if step > first_step]:
                steps.pop(step).unlink()

    def is_due(self, step: int) -> bool:
        return self._every > 0 and (step == 1 or step % self._every == 0)

    def write(self, step: int, collected: CollectedGroups) -> list[dict[str, Any]]:
        """The groups of a step that is due, over all ranks. All ranks together; each writes the pictures it has."""
        trained = {id(group) for group in collected.trained}
        mine = [self._row(step, group, id(group) in trained) for group in [*collected.groups, *collected.dropped]]
        rows = gather_object(mine)
        if self._is_main:
            check_claim(self._folder.parent)
            try:
                _write_rows(rows, self._folder / f"{step:06d}.parquet")
                self._bound_size()
            except OSError as error:
                self._say_lack(error)
        self._every = max(gather_object([self._every]))
        return rows

    def _row(self, step: int, group: ScoredGroup, is_trained: bool) -> dict[str, Any]:
        prompt = group.prompt
        is_known = is_trained and self._objective.has_fixed_advantages
        advantages: Sequence[float | None] = (
            self._objective.advantages(group) if is_known else [None] * len(group.rewards)
        )
        answers = zip(group.completions, group.rewards, advantages, strict=True)
        return {
            "step": step,
            "id": prompt.sample.id,
            "task": prompt.sample.task,
            "question": prompt.sample.question,
            "prompt": prompt.text,
            "answer": prompt.sample.answer,
            "boxes": [each.box for each in parse_detections(prompt.sample.answer) or ()],
            "images": [self._keep_image(source) for source in prompt.sample.images],
            "is_trained": is_trained,
            "completions": [asdict(_recorded(prompt, *each)) for each in answers],
            "videos": [self._keep_video(source) for source in prompt.sample.videos],
        }

    def _keep_image(self, source: str | bytes) -> dict[str, Any]:
        """The picture in the record's folder, and its original size; without a file if it cannot be had."""
        try:
            image = open_image(source, self._recipe.data.image_hosts, shrink=True)
        except BadImage:
            return {"file": None, "width": None, "height": None}
        width, height = original_size(image)
        return {"file": self._keep_picture(image, MAX_SIDE), "width": width, "height": height}

    def _keep_video(self, source: str | bytes | FrameList) -> dict[str, Any]:
        """Some of the frames that the model sees, evenly spaced; without frames if the video cannot be had."""
        data = self._recipe.data
        try:
            video = open_video(source, FrameSampling(data.fps, data.max_frames), data.image_hosts)
        except BadImage:
            return {"width": None, "height": None, "num_frames": None, "frames": []}
        frames = [
            {"file": self._keep_picture(video.frames[number], FRAME_SIDE), "seconds": video.times.seconds[number]}
            for number in _spread(len(video.frames), MAX_FRAMES)
        ]
        size = video.shape
        return {"width": size.width, "height": size.height, "num_frames": len(video.frames), "frames": frames}

    def _keep_picture(self, image: Image, max_side: int) -> str:
        """A small copy in the record's folder, by its name there."""
        kind, content = make_thumbnail(image, max_side)
        name = f"{IMAGES_FOLDER}/{hashlib.blake2b(content, digest_size=16).hexdigest()}.{kind}"
        try:
            _write_once(self._folder / name, content)
        except OSError as error:
            self._say_lack(error)
        return name

    def _say_lack(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            say(f"note: {self._folder} cannot be written ({first_line(error)}); the run goes on")

    def _bound_size(self) -> None:
        """Gives up every second recorded step, and the pictures that no other shows, until the rest is small enough."""
        limit = self._config.max_megabytes * _MEGABYTE
        while _size_of(self._folder) > limit and len(steps := _files_by_step(self._folder)) > 1:
            self._every *= 2
            for step in [step for step in steps if step != 1 and step % self._every]:
                steps.pop(step).unlink()
            needed = {name for path in steps.values() for name in _image_names(path)}
            for image in (self._folder / IMAGES_FOLDER).iterdir():
                if f"{IMAGES_FOLDER}/{image.name}" not in needed:
                    image.unlink()


def _recorded(prompt: Prompt, completion: Completion, reward: Reward, advantage: float | None) -> RecordedCompletion:
    text = completion_text(prompt, completion.text)
    answer = find_answer(text, prompt.answer_in)
    return RecordedCompletion(
        text,
        answer,
        _boxes(answer, prompt),
        reward.total,
        [{"name": name, "value": value} for name, value in reward.parts.items()],
        reward.status,
        reward.message,
        advantage,
        None if completion.log_probs is None else sum(completion.log_probs),
        len(completion.token_ids),
        completion.finished,
    )


def _boxes(answer: str | None, prompt: Prompt) -> list[Box]:
    found = parse_detections(answer) if answer is not None and prompt.views else None
    return [to_original(each.box, prompt.views[0]) for each in found or ()]


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, at equal distances, the first and the last among them."""
    kept = min(count, most)
    return [round(n * (count - 1) / max(1, kept - 1)) for n in range(kept)]


def _write_once(path: Path, content: bytes) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as partial:
        partial.write_bytes(content)
        os.replace(partial, path)


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as partial:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_clean(row) for row in rows], SCHEMA), partial)
        os.replace(partial, path)


def _clean(value: Any) -> Any:
    """Text that UTF-8 can hold: a model may write half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


def _files_by_step(folder: Path) -> dict[int, Path]:
    found = sorted(folder.glob("*.parquet"))
    return {int(path.stem): path for path in found if _STEP_FILE.fullmatch(path.name)}


def _image_names(path: Path) -> Iterator[str]:
    for row in pyarrow.parquet.read_table(path, columns=["images", "videos"], schema=SCHEMA).to_pylist():
        yield from picture_names(row)


def picture_names(row: Mapping[str, Any]) -> Iterator[str]:
    """The names of a recorded group's pictures, frames of videos included."""
    for picture in [*row["images"], *(frame for video in row["videos"] or () for frame in video["frames"])]:
        if picture["file"]:
            yield picture["file"]


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_record(output_dir: Path) -> list[dict[str, Any]]:
    """The recorded groups of a run, by step; empty if it has none.

    Raises:
        ValueError: a file is damaged; names it
    """
    rows: list[dict[str, Any]] = []
    for path in _files_by_step(output_dir / RECORD_FOLDER).values():
        try:
            rows += _read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path} is damaged ({first_line(error)}); remove it") from error
    return rows


def _read_table(path: Path) -> Any:
    table = pyarrow.parquet.read_table(path)
    if "videos" not in table.column_names:  # a record of before it had them
        videos = SCHEMA.field("videos")
        table = table.append_column(videos, pyarrow.array([[]] * len(table), videos.type))
    return table.cast(SCHEMA)
