"""VisualThinker's scorers: the reward on SAT (options as text) and the metric on CV-Bench (lettered options)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import LegacyScorer
from gpg_vl.verifiers.options import LETTERS, row_options
from gpg_vl.verifiers.published_maths import published_candidates, published_match
from gpg_vl.verifiers.published_text import (
    first_answer_on_a_line,
    first_answer_within_spaces,
    has_published_format,
)
from gpg_vl.verifiers.reasoning import THINK_OPENING

NUM_LETTERS = 6  # of CV-Bench's options

_LETTER = re.compile(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)")


def _reward(text: str, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
    """SAT: math-verify on whole strings, else the gold text itself or its last single letter A-H; and the format.

    The published prompt opens ``<think>``, and the published format puts it before the completion.
    """
    completion = text.removeprefix(THINK_OPENING)
    answer = first_answer_on_a_line(completion)
    student, gold = (completion if answer is None else answer).strip(), sample.answer.strip()
    letters = _LETTER.findall(student)
    is_right = (
        published_match(completion, f"<answer>{sample.answer}</answer>")
        or student == gold
        or (bool(letters) and letters[-1] == gold)
    )
    return {"accuracy": float(is_right), "format": float(has_published_format(THINK_OPENING + completion))}


def _metric(text: str, sample: Sample, views: Sequence[ImageView]) -> float:
    """CV-Bench: an item that math-verify finds in the first tag, else in the whole output, is the choice or its letter.

    The gold answer is a letter such as ``(A)``, or the text of a choice.
    """
    choices = row_options(sample.meta, sample.question)
    index = _find_gold(sample.answer, choices)
    if index is None:
        return float((first_answer_within_spaces(text) or text).strip() == sample.answer.strip())
    letter, answer = LETTERS[index], first_answer_within_spaces(text)
    accepted = [choices[index], choices[index].lower()]
    accepted += [letter, letter.lower(), f"({letter.lower()})", f"({letter})"]
    items = published_candidates(text if answer is None else answer, (*_letter_strings(), *choices))
    return float(any(isinstance(item, str) and item in accepted for item in items))


def _letter_strings() -> list[str]:
    letters = LETTERS[:NUM_LETTERS]
    bare = [*letters, *letters.lower()]
    return [*bare, *(f"({letter})" for letter in bare)]


def _find_gold(gold: str, choices: Sequence[str]) -> int | None:
    letter = gold.strip().strip("()")
    if len(letter) == 1 and letter.upper() in LETTERS[: len(choices)] and gold not in choices:
        return LETTERS.index(letter.upper())
    return list(choices).index(gold) if gold in choices else None


CHOICE = LegacyScorer(_reward, _metric)
