"""R1-V's scorers of counting and GEOQA. A number in the reasoning can earn the reward, as it could there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer
from gpg_vl.verifiers.counts import read_integer
from gpg_vl.verifiers.published_maths import published_match
from gpg_vl.verifiers.published_text import first_answer_on_a_line, has_published_format

_COUNT = re.compile(r"<answer>\s*(\d+)\s*</answer>")
_MAX_COUNT_DIGITS = 18


def _reward(text: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
    """math-verify on whole strings, else the same text in the first tag; and the format."""
    solution = f"<answer> {sample.answer} </answer>"
    answer = first_answer_on_a_line(text)
    is_right = published_match(text, solution) or (text if answer is None else answer).strip() == sample.answer.strip()
    return {"accuracy": float(is_right), "format": float(has_published_format(text))}


def _counting_metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    """The whole number of the first tag that holds nothing else."""
    match = _COUNT.search(text)
    if match is None or len(match[1]) > _MAX_COUNT_DIGITS:
        return 0.0
    return float(int(match[1]) == read_integer(sample.answer))


def _geometry_metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    """math-verify on the whole output, the reasoning included."""
    return float(published_match(text, sample.answer))


COUNTING = LegacyScorer(_reward, _counting_metric)
GEOMETRY = LegacyScorer(_reward, _geometry_metric)
