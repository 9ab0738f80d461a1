"""Finds the answer in a completion, in its tags or in a box: what stands in the reasoning never counts.

Every function takes text that a model wrote, returns for any text, and runs in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gpg_vl.records import AnswerIn
from gpg_vl.verifiers.reasoning import (
    ANSWER_CLOSING,
    ANSWER_OPENING,
    BOX_CLOSING,
    BOX_OPENING,
    THINK_CLOSING,
    in_plain_tags,
)

MAX_CHARS = 65_536
"""Longer completions have no answer and no format."""


_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def find_answer(text: str, answer_in: AnswerIn = "tags") -> str | None:
    """The answer of a completion, stripped; None where it has none or more than one.

    >>> find_answer("<think>3 or 4?</think> <answer> 4 </answer>"), find_answer("</think>So \\\\boxed{4}.", "boxed")
    ('4', '4')
    """
    return None if len(text) > MAX_CHARS else _WAYS[answer_in].find(in_plain_tags(text))


_PLAIN = re.compile(r"\s*<think>[^<]*</think>\s*<answer>([^<]*)</answer>\s*")


def read_completion(text: str, answer_in: AnswerIn = "tags") -> tuple[str | None, bool]:
    """The answer as ``find_answer`` finds it, and whether the completion has the format that was asked for.

    The format is reasoning in its tags, and then the answer. Most completions are just that, and are read at once.
    """
    if len(text) > MAX_CHARS:
        return None, False
    plain = _PLAIN.fullmatch(text) if answer_in == "tags" else None
    answer = plain[1].strip() if plain is not None else ""
    return (answer, True) if answer else _read_any(text, answer_in)


def _read_any(text: str, answer_in: AnswerIn) -> tuple[str | None, bool]:
    text, way = in_plain_tags(text), _WAYS[answer_in]
    return way.find(text), way.has_format(text)


def write_answer(reasoning: str, answer: str, answer_in: AnswerIn = "tags") -> str:
    """The completion that says an answer.

    Raises:
        ValueError: the answer cannot be found again in what was written
    """
    text = f"<think>{reasoning}</think>" + (
        f"<answer>{answer}</answer>" if answer_in == "tags" else f"\\boxed{{{answer}}}"
    )
    if answer_in == "boxed" and find_answer(text, answer_in) != answer.strip():
        raise ValueError(f"the answer {answer[:40]!r} cannot stand in \\boxed{{}}; set prompt.answer_in to tags")
    return text


def _find_tagged(text: str) -> str | None:
    """The content of the one answer tag after the reasoning, stripped; None if there is none.

    Only the text after the last ``</think>`` counts, or all of it if no reasoning was opened: text inside a reasoning
    that is never closed is not an answer. The rest must hold exactly one ``<answer>`` and exactly one
    ``</answer>``, in this order, with something between them.
    """
    conclusion = _asked_for(text, ANSWER_OPENING, ANSWER_CLOSING).rpartition("</think>")[2]
    if "<think>" in conclusion or conclusion.count("<answer>") != 1 or conclusion.count("</answer>") != 1:
        return None
    content, closing, _ = conclusion.partition("<answer>")[2].partition("</answer>")
    return _unboxed(content, conclusion) if closing else None


def _asked_for(text: str, opening: str, closing: str) -> str:
    """A text whose model boxes its final answer in its own way, with what was asked for instead, unless it is there."""
    if BOX_OPENING not in text and BOX_CLOSING not in text:
        return text
    reasoning, thought, conclusion = text.rpartition(THINK_CLOSING)
    if opening not in conclusion:
        conclusion = conclusion.replace(BOX_OPENING, opening).replace(BOX_CLOSING, closing)
    return reasoning + thought + conclusion


def _unboxed(content: str, conclusion: str) -> str | None:
    """The content, or what is in the one box of it; None if it is empty, or if another box stands beside it."""
    if BOX_OPENING in conclusion or BOX_CLOSING in conclusion:
        content, closed, _ = content.partition(BOX_OPENING)[2].partition(BOX_CLOSING)
        if not closed or conclusion.count(BOX_OPENING) != 1 or conclusion.count(BOX_CLOSING) != 1:
            return None
    return content.strip() or None


def _has_tagged_format(text: str) -> bool:
    return has_think_answer_format(_asked_for(text, ANSWER_OPENING, ANSWER_CLOSING))


def has_think_answer_format(text: str) -> bool:
    """Whether the text is ``<think>...</think><answer>...</answer>`` and nothing else but whitespace.

    Each tag stands exactly once; the reasoning may be empty, the answer not.
    """
    if len(text) > MAX_CHARS:
        return False
    body = text.strip()
    reasoning, thought, conclusion = body.partition("</think>")
    gap, opened, answer = conclusion.partition("<answer>")
    if not (thought and opened and body.startswith("<think>") and answer.endswith("</answer>")) or gap.strip():
        return False
    content = answer[: -len("</answer>")]
    if "<" in content or reasoning.rfind("<"):  # what may be a tag, beside the one that opens the reasoning
        return bool(content.strip()) and not any(tag in part for tag in _TAGS for part in (reasoning[1:], content))
    return bool(content.strip())


_COMMANDS = ("\\boxed", "\\fbox")
_OPENED = re.compile(r"\\(?:boxed|fbox)\s{0,8}(?:(\{)|([0-9A-Za-z])(?![0-9A-Za-z]|[.,][0-9]|\s{0,4}[-+*/^_%°√π=\\]))")
"""The brace after it, or the one character that TeX boxes without."""
_BRACE = re.compile(r"[{}]")


def _find_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{}`` after the reasoning, or anywhere where no reasoning was opened."""
    conclusion = _asked_for(text, "\\boxed{", "}").rpartition("</think>")[2]
    opened = _OPENED.match(conclusion, max(0, *map(conclusion.rfind, _COMMANDS)))
    if opened is None or "<think>" in conclusion:
        return None
    if opened[2]:
        return opened[2]
    depth, first = 1, opened.end()
    for brace in _BRACE.finditer(conclusion, first):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            content = conclusion[first : brace.start()]
            return _unboxed(content, content)
    return None


def _has_boxed_format(text: str) -> bool:
    """Whether the text is ``<think>...</think>``, each tag once, and then a sentence or none with a ``\\boxed{}``."""
    body = text.strip()
    if not body.startswith("<think>") or body.count("<think>") != 1 or body.count("</think>") != 1:
        return False
    return _find_boxed(body) is not None


class _Way(NamedTuple):
    find: Callable[[str], str | None]
    has_format: Callable[[str], bool]


_WAYS = {"tags": _Way(_find_tagged, _has_tagged_format), "boxed": _Way(_find_boxed, _has_boxed_format)}


def strip_answer_tags(text: str) -> str:
    """A published solution without its reasoning and tags: ``<answer> 145° </answer>`` is ``145°``."""
    conclusion = text.rpartition("</think>")[2]
    return conclusion.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
