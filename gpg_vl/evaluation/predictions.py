"""One evaluated row with everything that a score needs, as a line of ``predictions.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any

from gpg_vl.prompts.saved_views import read_view
from gpg_vl.records import ImageView

NO_IMAGE = "no_image"
"""Status if a row's image is missing or broken: nothing was generated, and all its completions count as wrong."""

DROPPED = "dropped"
"""Status if the conversion dropped a row: also counts as wrong. Such rows are not in ``predictions.jsonl``."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The k scored completions of a row; every tuple has one entry per completion."""

    row: int  # position among the evaluated rows, counted from 0
    id: str
    task: str
    split: str
    category: str  # "" if the rows have none
    question: str
    answer: str  # gold
    views: tuple[ImageView, ...]  # one per image and video; () if one is missing
    completions: tuple[str, ...]  # with the opening <think> if the prompt ended with it
    num_tokens: tuple[int, ...]
    finished: tuple[bool, ...]
    answers: tuple[str | None, ...]  # what the task read, in a normalised spelling; None if unreadable
    rewards: tuple[float, ...]
    parts: tuple[dict[str, float], ...]
    status: tuple[str, ...]  # records.Status, NO_IMAGE or DROPPED
    legacy: tuple[float | None, ...] | None
    """Published metric; None if there is none or it was not requested. An entry is None if it could not be computed
    (timeout or error): that completion counts as 0 and is reported."""

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
        ValueError: it is not a valid line
    """
    row: Any = json.loads(line)
    if not isinstance(row, dict) or set(row) != _NAMES or not _has_types(row):
        raise ValueError("not a valid line of predictions.jsonl")
    tuples = {name: tuple(row[name]) for name in _PER_COMPLETION if row[name] is not None}
    try:
        views = tuple(map(read_view, row["views"]))
    except TypeError as error:
        raise ValueError("not a valid line of predictions.jsonl") from error
    return Prediction(**{**row, **tuples, "views": views})


def _has_types(row: Mapping[str, Any]) -> bool:
    """Whether every field has its type, and tuples have one entry per completion."""
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
