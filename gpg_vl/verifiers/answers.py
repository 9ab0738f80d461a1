"""Finds the answer in a completion, by its tags alone: what stands in the reasoning never counts.

Every function takes text that a model wrote, is total, and runs in time linear in its length.
"""

from __future__ import annotations

MAX_CHARS = 65_536
"""Longer completions have no answer and no format."""

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def find_answer(text: str) -> str | None:
    """The content of the one answer tag after the reasoning, stripped; None where there is no such content.

    Only the text after the last ``</think>`` counts, or all of it where no reasoning was opened: what stands in a
    reasoning that is never closed is no answer. The rest must hold exactly one ``<answer>`` and exactly one
    ``</answer>``, in this order, with something between them.

    >>> find_answer("<think>3 or 4?</think> <answer> 4 </answer>")
    '4'
    """
    if len(text) > MAX_CHARS:
        return None
    conclusion = text.rpartition("</think>")[2]
    if "<think>" in conclusion or conclusion.count("<answer>") != 1 or conclusion.count("</answer>") != 1:
        return None
    content, closing, _ = conclusion.partition("<answer>")[2].partition("</answer>")
    return (content.strip() or None) if closing else None


def has_think_answer_format(text: str) -> bool:
    """Whether the text is ``<think>...</think><answer>...</answer>`` and no more, whitespace between and around aside.

    Each tag stands exactly once; the reasoning may be empty, the answer not.
    """
    body = text.strip() if len(text) <= MAX_CHARS else ""
    if not body.startswith("<think>") or not body.endswith("</answer>") or any(body.count(tag) != 1 for tag in _TAGS):
        return False
    conclusion = body.partition("</think>")[2]
    gap, _, answer = conclusion.partition("<answer>")
    return not gap.strip() and bool(answer.removesuffix("</answer>").strip())


def strip_answer_tags(text: str) -> str:
    """A published solution without its reasoning and tags: ``<answer> 145° </answer>`` is ``145°``."""
    conclusion = text.rpartition("</think>")[2]
    return conclusion.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
