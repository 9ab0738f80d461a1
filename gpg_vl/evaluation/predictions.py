"""One evaluated row with all that a score is made from, as a line of ``predictions.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any

from gpg_vl.records import ImageView

NO_IMAGE = "no_image"
"""Status of the completions of a row whose image is missing or broken: there are none, and they count as wrong."""

DROPPED = "dropped"
"""Status of the completions of a row that its conversion dropped: as above. Such rows are in no file of predictions."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The k completions of a row, scored; every tuple has one entry per completion."""

    row: int  # position among the evaluated rows, from 0
    id: str
    task: str
    split: str
    category: str  # "" where the rows have none
    question: str
    answer: str  # gold
    views: tuple[ImageView, ...]  # one per image; () where an image is missing
    completions: tuple[str, ...]  # with the opening <think> where the prompt ended in one
    num_tokens: tuple[int, ...]
    finished: tuple[bool, ...]
    answers: tuple[str | None, ...]  # what the task read, in one spelling; None where it read nothing
    rewards: tuple[float, ...]
    parts: tuple[dict[str, float], ...]
    status: tuple[str, ...]  # of records.Status, NO_IMAGE or DROPPED
    legacy: tuple[float | None, ...] | None
    """Published metric; None where there is none, or it was not asked for. An entry is None where it could not be
    worked out (a time-out or an error): that completion counts 0, and is counted."""

    def to_line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


_NAMES = {each.name for each in fields(Prediction)}
_TEXTS = ("id", "task", "split", "category", "question", "answer")
_PER_COMPLETION: dict[str, tuple[type, ...]] = {
    "completions": (str,),
    "num_tokens": (int,),
    "finished": (bool,),
    "answers": (str, NoneType),
    "rewards": (int, float),
    "parts": (dict,),
    "status": (str,),
    "legacy": (int, float, NoneType),
}


def read_prediction(line: str) -> Prediction:
    """The prediction that ``to_line`` wrote.

    Raises:
        ValueError: the line is none
    """
    row: Any = json.loads(line)
    if not isinstance(row, dict) or set(row) != _NAMES or not _has_types(row):
        raise ValueError("no line of predictions.jsonl")
    tuples = {name: tuple(row[name]) for name in _PER_COMPLETION if row[name] is not None}
    try:
        views = tuple(ImageView(**view) for view in row["views"])
    except TypeError as error:
        raise ValueError("no line of predictions.jsonl") from error
    return Prediction(**{**row, **tuples, "views": views})


def _has_types(row: Mapping[str, Any]) -> bool:
    """Whether every field is of its type, with as many entries as there are completions."""
    lists = {name: row[name] for name in _PER_COMPLETION if (name, row[name]) != ("legacy", None)}
    return (
        type(row["row"]) is int
        and row["row"] >= 0
        and all(isinstance(row[name], str) for name in _TEXTS)
        and all(isinstance(each, list) for each in lists.values())
        and len({len(each) for each in lists.values()}) == 1
        and len(row["completions"]) > 0
        and all(isinstance(entry, _PER_COMPLETION[name]) for name, each in lists.items() for entry in each)
    )
