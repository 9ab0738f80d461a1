"""Matches a file's columns to the kit's and turns each row into a sample; image paths stay inside their folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from gpg_vl.data.conversations import (
    Conversation,
    is_conversation,
    parse_conversation,
    read_conversation,
    read_last_answer,
    refuse_half_messages,
)
from gpg_vl.data.json_text import read_object, write_json
from gpg_vl.data.media_markers import IMAGE_MARKER, VIDEO_MARKER
from gpg_vl.data.row_formats import (
    IMAGE_COLUMNS,
    MESSAGE_COLUMNS,
    Columns,
    describe_reading,
    find_shape,
    image_columns,
    look_up,
    shape_columns,
)
from gpg_vl.data.row_images import read_image_columns, read_images, refuse_lost_image
from gpg_vl.data.row_videos import holds_video, read_videos
from gpg_vl.data.schema import KIT_FIELDS, VERSION_FIELD, check_version, read_text
from gpg_vl.data.tables import Table, TableRow
from gpg_vl.records import FrameList, Sample
from gpg_vl.user_code import absolute_spec, own_file
from gpg_vl.verifiers.answers import strip_answer_tags
from gpg_vl.verifiers.box_text import parse_detections

GivenColumns = Mapping[str, str | Sequence[str] | None]
"""An entry's ``columns``: kit field -> column; several for ``images``; null for a field that the rows do not have."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Where the rows of a file have the kit's fields."""

    columns: Columns
    without_images: bool = False  # whether the entry says that no row has images
    reading: str = ""  # how the rows are read, in a line, if they are in no shape of the kit's own
    may_be_notes: bool = False  # whether the column video, found beside images, may hold something else than videos

    @property
    def images(self) -> tuple[str, ...]:
        """The columns of the images."""
        column = self.columns.get("images", ())
        return (column,) if isinstance(column, str) else column


def match_columns(
    path: str, available: Sequence[str], given: GivenColumns | None, task: str | None, kind: str = ""
) -> Matched:
    """Finds the column of each kit field, by the kit's own names and those of the known shapes.

    Args:
        given: kit field -> column; goes before what is found
        kind: of the file, if that is worth a line

    Raises:
        ValueError: a field that a sample needs has no column; lists the existing columns
    """
    named = {field: _as_columns(column) for field, column in (given or {}).items()}
    shape = find_shape(available)
    own: dict[str, str | tuple[str, ...] | None] = {field: field for field in KIT_FIELDS if field in available}
    own["images"] = image_columns(available)
    if "videos" not in own and "video" in available:
        own["videos"] = "video"
    if given is not None or shape is not None:
        own.pop("id", None)  # rows from elsewhere get ids from file and row
    found = own if shape is None else shape_columns(shape, available) | own
    columns = {field: column for field, column in (found | named).items() if column is not None}
    for field, column in columns.items():
        _refuse_unknown(path, available, field, column)
    without_images = "images" in named and named["images"] is None
    _refuse_missing(path, available, columns, without_images)
    if "task" not in columns and task is None:
        raise ValueError(f"{path} does not name the task of its rows; set task in the recipe, or add a column task")
    is_found = shape is not None and not {"question", "answer"} <= set(named)
    may_be_notes = "images" in columns and columns.get("videos") == "video" and "videos" not in named
    return Matched(columns, without_images, describe_reading(kind, shape if is_found else None, columns), may_be_notes)


def _as_columns(column: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return column if column is None or isinstance(column, str) else tuple(column)


def _refuse_unknown(path: str, available: Sequence[str], field: str, column: str | tuple[str, ...]) -> None:
    for name in [column] if isinstance(column, str) else column:
        if name not in available and name.partition(".")[0] not in available:
            raise ValueError(f"{path} has no column {name!r} for columns.{field}; it has {list(available)}")


def _refuse_missing(path: str, available: Sequence[str], columns: Columns, without_images: bool) -> None:
    """Messages may hold the answer and the images, so their columns need no others."""
    is_chat = columns.get("question") in MESSAGE_COLUMNS
    needs_images = not (is_chat or without_images or "videos" in columns)
    required = ["question", *([] if is_chat else ["answer"]), *(["images"] if needs_images else [])]
    missing = [field for field in required if field not in columns]
    if missing:
        example = "{path: ..., columns: {" + ", ".join(f"{field}: NAME" for field in missing) + "}}"
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {list(available)}; "
            f"say which of them to use with an entry {example}"
        )


@dataclass(frozen=True)
class LazySamples(Sequence[Sample]):
    """The samples of a table. Accessing a bad row raises ``ValueError`` with the file and the row."""

    path: str
    table: Table
    matched: Matched
    root: Path | None  # resolved folder that image paths must stay in; None allows no paths
    task: str | None
    hosts: Collection[str] = ()  # hosts that images may be fetched from
    own_tasks: Collection[str] = ()  # tasks in files that a row may name, with absolute paths

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        position = range(len(self))[index]
        if isinstance(position, range):
            return [self[i] for i in position]
        try:
            number = position + 1
            default_id = None if "id" in self.matched.columns else f"{shown_path(self.path)}:{number}"
            row = self.table.row(position)
            return make_sample(row, self.matched, self.root, self.task, default_id, self.hosts, self.own_tasks)
        except ValueError as error:
            raise ValueError(f"{self.path}, row {position + 1}: {error}") from error


def shown_path(path: str) -> str:
    """A path in or below the working directory as relative to it: an id is the same, however the path is written."""
    location, here = Path(path), Path.cwd()
    return str(location.relative_to(here)) if location.is_absolute() and location.is_relative_to(here) else path


def make_sample(
    row: TableRow,
    matched: Matched,
    root: Path | None,
    task: str | None,
    default_id: str | None,
    hosts: Collection[str] = (),
    own_tasks: Collection[str] = (),
) -> Sample:
    """The sample of one row.

    Args:
        matched: where the row has the kit's fields
        root: resolved folder that image paths must stay in; None allows no paths
        task: replaces the row's own task
        default_id: id if the row has none
        hosts: hosts that images may be fetched from
        own_tasks: tasks in files that the row may name, with absolute paths

    Raises:
        ValueError: a field is missing, too long or of the wrong type, or names code; names the field
    """
    check_version(row.get(VERSION_FIELD))
    columns = _single_columns(row, matched)
    fields = {field: look_up(row, column) for field, column in columns.items()}
    chat = _read_chat(fields.get("question"))
    _refuse_history(row)
    videos = _find_videos(row, columns.get("videos"), chat.videos, root, hosts)
    images = _find_images(row, matched, chat.images, root, hosts, bool(videos))
    taken = {VERSION_FIELD, *columns.values(), *matched.images}
    meta = {name: value for name, value in row.items() if name not in taken} | _read_meta(fields.get("meta"))
    return Sample(
        id=read_text("id", fields.get("id", default_id)),
        task=task or _read_task(fields.get("task"), own_tasks),
        images=images,
        question=read_text("question", chat.question),
        answer=strip_answer_tags(read_answer(fields.get("answer", chat.answer))),
        meta=_check_system(meta) | ({"system": chat.system} if chat.system else {}),
        own_columns={
            column: row[column]
            for field, column in columns.items()
            if column != field and field in _TEXTS and column in row and not is_conversation(row[column])
        },
        videos=videos,
    )


def _single_columns(row: TableRow, matched: Matched) -> dict[str, str]:
    """Kit field -> column, where it is one; without a column ``video`` that holds no video in this row."""
    columns = {field: column for field, column in matched.columns.items() if isinstance(column, str)}
    is_asked = VIDEO_MARKER in _question_text(row, matched)
    if matched.may_be_notes and not holds_video(row.get("video"), is_asked):
        del columns["videos"]
    return columns


def _question_text(row: TableRow, matched: Matched) -> str:
    """As it stands in its column, messages too."""
    column = matched.columns["question"]
    return str(look_up(row, column)) if isinstance(column, str) else ""


def _read_task(value: Any, own_tasks: Collection[str]) -> str:
    """A row is data: the file of a task that it names would run, so the user has to name that file too."""
    task = read_text("task", value)
    if own_file(task) and absolute_spec(task) not in own_tasks:
        raise ValueError(
            f"the task {task[:80]!r} is a file of code, which a row cannot choose; if you trust it, list it in tasks "
            "(--tasks '[FILE.py:CLASS]' of gpg-vl, --allow-task of data_tools)"
        )
    return task


_TEXTS = ("question", "answer", "task")


def _read_chat(question: Any) -> Conversation:
    """The question of a row, which is text or a list of messages."""
    found = parse_conversation(question) if isinstance(question, str) else question
    if is_conversation(found):
        return read_conversation(found)
    refuse_half_messages(found)
    return Conversation(read_text("question", found))


def _check_system(meta: dict[str, Any]) -> dict[str, Any]:
    """Refuses a system message that is no text; a missing one in a table may be NaN."""
    value = meta.get("system")
    if value is not None and not isinstance(value, str) and value == value:
        raise ValueError(f"the system message is a {type(value).__name__}; write text, or leave the column system out")
    return meta


def _refuse_history(row: TableRow) -> None:
    """Refuses ms-swift's earlier turns of a conversation, which the question would be asked without."""
    if row.get("history") and "query" in row:
        raise ValueError("the question has earlier turns in history; write one question, and one answer")


def read_answer(value: Any) -> str:
    """The gold answer as text: of a text or number, of boxes, of messages, or of verl's ``reward_model``.

    Raises:
        ValueError: it is missing, or a list or object of something else
    """
    if isinstance(value, Mapping) and value.get("ground_truth") is not None:
        value = value["ground_truth"]
    if isinstance(value, str):
        value = parse_conversation(value)
    if is_conversation(value):
        return read_text("answer", read_last_answer(value))
    if isinstance(value, list | dict):
        text = write_json(value)
        return read_text("answer", value if parse_detections(text) is None else text)
    return read_text("answer", value)


def _find_images(
    row: TableRow, matched: Matched, inside: Sequence[Any], root: Path | None, hosts: Collection[str], has_videos: bool
) -> tuple[str | bytes, ...]:
    """The images of a row.

    Args:
        inside: images that are in the messages of the question
        has_videos: whether the row has any, and so need not have a column of images
    """
    values = {column: look_up(row, column) for column in matched.images}
    if inside:
        if any(value not in (None, "", []) for value in values.values()):
            raise ValueError(f"images are in the question's messages and in {', '.join(values)}; keep one of them")
        return read_images(list(inside), root, hosts)
    may_lack = has_videos or ("videos" in matched.columns and not values)
    are_null = all(value in (None, "") for value in values.values())
    if matched.without_images or (may_lack and are_null and IMAGE_MARKER not in _question_text(row, matched)):
        return ()
    if len(values) > 1:
        return read_image_columns(values, root, hosts)
    [column] = values or ["images"]
    if column not in row and values.get(column) is None:
        raise ValueError(f"the images are missing: there is no {column!r}; write [] if a row has no images")
    refuse_lost_image(row, column, IMAGE_COLUMNS)
    return read_images(values[column], root, hosts)


def _find_videos(
    row: TableRow, column: str | None, inside: Sequence[Any], root: Path | None, hosts: Collection[str]
) -> tuple[str | bytes | FrameList, ...]:
    """The videos of a row; a row without the column has none.

    Args:
        inside: videos that are in the messages of the question
    """
    is_there = column is not None and column.partition(".")[0] in row
    value = look_up(row, column) if column is not None and is_there else []
    are_inside = any(each is not None for each in inside)
    if are_inside and value not in (None, "", []):
        raise ValueError(f"videos are in the question's messages and in {column}; keep one of them")
    if inside and not are_inside and value == []:
        raise ValueError(
            "the question shows a video, and the row has none; name the column of videos by columns.videos"
        )
    return read_videos(list(inside) if are_inside else value, root, hosts)


def _read_meta(value: Any) -> dict[str, Any]:
    try:
        meta = read_object(value) if isinstance(value, str) and value else value or {}
    except ValueError as error:
        raise ValueError(f"meta is text and {error}; write an object of names and values") from error
    if not isinstance(meta, dict):
        raise ValueError(f"meta is a {type(meta).__name__}; make it an object of names and values")
    return meta


def find_image_root(path: str, image_root: str | None) -> Path | None:
    """The folder that image paths are relative to; None for a hub data set, whose images come as bytes."""
    if image_root is not None:
        if not Path(image_root).is_dir():
            raise ValueError(f"data.image_root: no such folder: {image_root}; name that of the images")
        return Path(image_root).resolve()
    location = Path(path)
    if location.is_dir():
        return location.resolve()
    return location.parent.resolve() if location.is_file() else None
