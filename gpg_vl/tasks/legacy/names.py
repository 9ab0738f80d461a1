"""Visual-RFT's scorer of fine-grained classification: a name within the other passes, the empty answer too."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer
from gpg_vl.verifiers.published_maths import published_match
from gpg_vl.verifiers.published_text import first_answer_on_a_line, has_published_format


def _reward(text: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
    answer = first_answer_on_a_line(text)
    is_right = published_match(text, f"<answer>{sample.answer}</answer>") or _is_within(
        text if answer is None else answer, sample.answer
    )
    return {"accuracy": float(is_right), "format": float(has_published_format(text))}


def _metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    """The same rule on the first tag; a completion without one is wrong."""
    answer = first_answer_on_a_line(text)
    return 0.0 if answer is None else float(_is_within(answer, sample.answer))


def _is_within(answer: str, gold: str) -> bool:
    left, right = (text.strip().replace(" ", "").replace("_", "").lower() for text in (answer, gold))
    return left in right or right in left


CLASSIFICATION = LegacyScorer(_reward, _metric)
