"""Rows that a conversion dropped -> wrong predictions, so that a score covers all published rows.

A converter counts and lists what it drops in ``NAME.counts.json`` next to its rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpg_vl.evaluation.predictions import DROPPED, Prediction
from gpg_vl.screen import say

_PRINTED = 20  # maximum number of rows printed


@dataclass(frozen=True, slots=True)
class Dropped:
    """The dropped rows of one split."""

    num: int = 0
    listed: tuple[str, ...] = ()  # file, row and reason of the first 10,000
    note: str = ""  # why the counts were not used


def read_dropped(rows: Path, num_rows: int) -> Dropped:
    """What the conversion that wrote ``rows`` dropped; nothing if there are no counts of this very file next to it.

    Args:
        num_rows: number of rows in the file; if the counts differ, they belong to another file or to other limits
    """
    file = rows.with_suffix(".counts.json")
    if not file.is_file():
        return Dropped()
    try:
        counts = json.loads(file.read_text(encoding="utf-8"))
        written, num = int(counts["rows_written"]), sum(map(int, counts["dropped"].values()))
        listed = tuple(map(str, counts.get("dropped_rows", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        written, num, listed = -1, 0, ()
    if written != num_rows:
        return Dropped(note=f"{file} does not count these {num_rows} rows: it is not known what was dropped")
    return Dropped(num, listed)


def say_dropped(split: str, dropped: Dropped) -> None:
    """Prints to standard error how many were dropped, and the first ones."""
    if dropped.note:
        say(f"note: {dropped.note}")
    if dropped.num == 0:
        return
    say(f"{dropped.num} rows of {split} count as wrong because the conversion dropped them:")
    say("\n".join(f"  {line}" for line in dropped.listed[:_PRINTED]))
    if dropped.num > _PRINTED:
        say(f"  and {dropped.num - _PRINTED} more, listed in results.json")


def wrong_predictions(num: int, like: Prediction, present: Counter[str], sizes: Mapping[str, int]) -> list[Prediction]:
    """Predictions of dropped rows: no completion, no reward.

    Args:
        like: a prediction of the same split, for the fields they have in common
        present: existing rows of each category
        sizes: published rows of each category; if they equal the rows plus ``num``, missing rows get their category
    """
    missing = Counter(sizes) - present
    categories = list(missing.elements()) if missing.total() == num else [""] * num
    k = len(like.completions)
    return [
        Prediction(
            row=-1, id="", task=like.task, split=like.split, category=category, question="", answer="", views=(),
            completions=("",) * k, num_tokens=(0,) * k, finished=(False,) * k, answers=(None,) * k,
            rewards=(0.0,) * k, parts=({},) * k, status=(DROPPED,) * k,
            legacy=None if like.legacy is None else (0.0,) * k,
        )
        for category in categories
    ]  # fmt: skip
