"""Rows that a conversion dropped -> predictions that are wrong, so that a score is of all published rows.

A converter counts what it drops in ``NAME.counts.json`` beside its rows, and names each.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpg_vl.evaluation.predictions import DROPPED, Prediction

_PRINTED = 20  # rows


@dataclass(frozen=True, slots=True)
class Dropped:
    """Of one split."""

    num: int = 0
    listed: tuple[str, ...] = ()  # file, row and reason of the first 10,000
    note: str = ""  # why counts were passed over


def read_dropped(rows: Path, num_rows: int) -> Dropped:
    """What the conversion that wrote ``rows`` dropped; nothing where no counts of this very file lie beside it.

    Args:
        num_rows: in the file; counts of another number are those of another file, or of rows beyond a limit
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
        return Dropped(note=f"{file} does not count these {num_rows} rows: what was dropped is not known")
    return Dropped(num, listed)


def say_dropped(split: str, dropped: Dropped) -> None:
    """On standard error: how many, and the first of them."""
    if dropped.note:
        print(f"note: {dropped.note}", file=sys.stderr)
    if dropped.num == 0:
        return
    print(f"{dropped.num} rows of {split} count as wrong, for the conversion dropped them:", file=sys.stderr)
    print("\n".join(f"  {line}" for line in dropped.listed[:_PRINTED]), file=sys.stderr)
    if dropped.num > _PRINTED:
        print(f"  and {dropped.num - _PRINTED} more, listed in results.json", file=sys.stderr)


def wrong_predictions(num: int, like: Prediction, present: Counter[str], sizes: Mapping[str, int]) -> list[Prediction]:
    """Predictions of dropped rows: no completion, no reward.

    Args:
        like: a prediction of the same split, for what they have in common
        present: rows of each category that are there
        sizes: published rows of each category; where rows and ``num`` make them up, what is missing has its category
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
