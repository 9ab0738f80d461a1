"""Reads the answer to a multiple choice: the letter, the text, or the letter with its own text."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpg_vl.verifiers.maths.same_values import TwoReadings, Value, same_value
from gpg_vl.verifiers.maths.values import read_number
from gpg_vl.verifiers.options import LETTERS, without_bold_letter
from gpg_vl.verifiers.sentences import BARE, changes_value, readings
from gpg_vl.verifiers.unwrap import unwrap

MAX_CHARS = 512

_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s{1,4})?[(\[{]?\s?([A-Za-z])\s?[)\]}]?[.):、,]{0,2}|([A-Z])\s?选?项",
    re.IGNORECASE | re.ASCII,
)
_LETTERED = re.compile(
    r"(?:(?:option|choice|answer)\s{1,4})?(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Za-z]))(\s?[.):、,]\s{0,8}|\s{1,8}(?:-\s{1,8})?)(\S.*)",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_LETTER_AFTER = re.compile(r"(.*\S)\s{0,4}[(\[]\s?([A-Za-z])\s?[)\]]", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)", re.IGNORECASE)
_JOINED = re.compile(r"\s{0,4}(?:,\s{0,4}(?:and\s+|&\s{0,4})?|;\s{0,4}|\band\b|&)\s{0,4}")
_CLAUSE = re.compile(r"([^,.;]{1,80})[,.;]\s{1,4}(.{8,240})", re.DOTALL)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|looks|appears|seems|lies|stands|sits|shows|there's|it's)\b", re.IGNORECASE
)
_NAMES_LETTER = re.compile(r"\b[B-HJ-Z]\b|[(\[]\s?[A-Za-z]\s?[)\]]|\b(?:option|choice|answer)\b", re.ASCII)
_YES = re.compile(r"(yes)[,;]\s(?:it|he|she|they|there|this|that)\s(?:is|are|was|were|does|do|has|have)", re.IGNORECASE)
_EDGES = " .,;:!`*"


@dataclass(frozen=True, slots=True)
class Chosen:
    """An option by its position, and the letter that was said alone, if it was."""

    index: int
    letter: str = ""

    def __str__(self) -> str:
        return LETTERS[self.index]


@dataclass(frozen=True, slots=True)
class _OptionTable:
    """The options by their spellings, strictest first; a spelling that several options share names none of them."""

    texts: tuple[str, ...]
    spellings: tuple[Mapping[str, int], ...]
    folded: tuple[str, ...]

    def find(self, text: str) -> int | None:
        """The option whose text this is, in the strictest spelling that identifies one."""
        spelling = text
        for spell, found in zip(_SPELLINGS, self.spellings, strict=True):
            spelling = spell(spelling)
            index = found.get(spelling)
            if index is not None:
                return index if index >= 0 else None
        return self._by_value(text)

    def _by_value(self, text: str) -> int | None:
        values = _values_of(self.texts)
        value = _value_of(text) if any(values) else None
        if value is None:
            return None
        same = [index for index, other in enumerate(values) if other is not None and _is_same(value, other)]
        return same[0] if len(same) == 1 else None


def read_choice(answer: str, options: Sequence[str]) -> Chosen | str | None:
    """The option that the answer is, by letter or text; without options, the letter or the text itself.

    None if the answer has more than 512 characters, is not an option, or is a letter with another option's text.

    >>> [read_choice(answer, ["left", "right"]) for answer in ("The right.", "(b)", "B. right", "A. right")]
    [Chosen(index=1, letter=''), Chosen(index=1, letter='B'), Chosen(index=1, letter=''), None]
    """
    return choice_reader(tuple(options))(answer)


@functools.lru_cache(maxsize=2048)
def choice_reader(options: tuple[str, ...]) -> Callable[[str], Chosen | str | None]:
    """A function that reads what an answer chooses, as ``read_choice`` does."""
    if not options:
        return _read_alone
    table = _tabulate(options)
    plain = _plain_answers(table)
    return lambda answer: plain.get(answer) or _read_among(table, answer)


@functools.lru_cache(maxsize=8192)
def _read_alone(answer: str) -> str | None:
    if len(answer) > MAX_CHARS:
        return None
    *_, text = readings(answer)
    letter = _LETTER.fullmatch(text)
    if letter is not None:
        return (letter[1] or letter[2]).casefold()
    lettered = _LETTERED.fullmatch(text)
    if lettered is not None and lettered[3].strip() in (".", ")", ":", "、") and lettered[4][:1].isalnum():
        return f"{(lettered[1] or lettered[2]).casefold()}. {_fold(lettered[4])}"
    return _drop_article(_fold(text)) or None


def _read_among(table: _OptionTable, answer: str) -> Chosen | None:
    return None if len(answer) > MAX_CHARS or _is_other(table, answer) else _read_in_full(table, answer)


def _is_other(table: _OptionTable, answer: str) -> bool:
    """Whether an answer of plain words ends in one that ends neither option nor letter nor number: it is no option."""
    last = answer.rpartition(" ")[2].casefold()
    if len(last) < 2 or last == "and" or BARE.fullmatch(answer) is None or any(last in each for each in table.folded):
        return False
    return not any(_values_of(table.texts))


def _read_in_full(table: _OptionTable, answer: str) -> Chosen | None:
    for text in readings(answer, table.folded):
        chosen = _read_one(text, table)
        if chosen is not None:
            return chosen
    return None


def _read_one(text: str, table: _OptionTable) -> Chosen | None:
    index = table.find(text)
    letter = _LETTER.fullmatch(text)
    said = (letter[1] or letter[2]).upper() if letter is not None else ""
    if index is not None:
        return Chosen(index, said)
    if letter is not None:
        return Chosen(LETTERS.index(said), said) if LETTERS.index(said) < len(table.folded) else None
    index = _letter_with_text(text, table)
    if index is None:
        index = _with_clause(text, table)
    return None if index is None else Chosen(index)


def _letter_with_text(text: str, table: _OptionTable) -> int | None:
    """A letter with the text of its own option, before it or after it in brackets."""
    text = without_bold_letter(text)
    before = _LETTERED.fullmatch(text)
    after = _LETTER_AFTER.fullmatch(text) if text.endswith((")", "]")) else None
    pairs = [(before[1] or before[2], before[4])] if before is not None else []
    pairs += [(after[2], after[1])] if after is not None else []
    for letter, content in pairs:
        index = LETTERS.index(letter.upper())
        if index < len(table.folded) and index == table.find(unwrap(content)):
            return index
    return None


def _with_clause(text: str, table: _OptionTable) -> int | None:
    """An option and a clause with a verb that names no other option: ``yes, the chair is closer``."""
    if "," not in text and ";" not in text and "." not in text:
        return None
    agreed = _YES.fullmatch(text)
    if agreed is not None:
        return table.find(agreed[1])
    match = _CLAUSE.fullmatch(text)
    if match is None or not _VERB.search(match[2]) or changes_value(match[2]) or _NAMES_LETTER.search(match[2]):
        return None
    index = table.find(match[1].strip())
    clause = f" {_fold(match[2])} "
    others = [_drop_article(other) for number, other in enumerate(table.folded) if number != index]
    return None if any(f" {other} " in clause for other in others) else index


def _fold(text: str) -> str:
    """In lower case and without marks around it; a period before a digit and a quote after one stay."""
    text = " ".join(text.casefold().split())
    bare = text.strip(_EDGES)
    return f".{bare}" if bare[:1].isdigit() and text.endswith(f".{bare}") and text != bare else bare


def _drop_article(text: str) -> str:
    return _ARTICLE.sub("", text, count=1) if text.startswith(("a", "t", "A", "T")) else text


def _join(text: str) -> str:
    return _JOINED.sub(",", text) if "," in text or ";" in text or "&" in text or "and" in text else text


def _spell(text: str) -> str:
    return " ".join(text.split())


_SPELLINGS = (_spell, _fold, _drop_article, _join)
"""Each of what the one before it made."""


def _tabulate(options: tuple[str, ...]) -> _OptionTable:
    texts = [unwrap(option) for option in options]
    asked = [text.rstrip(" ?") or text for text in texts]  # the mark of the question that an option ends
    spelled = [[_spell(each) for each in texts], [_fold(each) for each in asked]]
    for spell in _SPELLINGS[2:]:
        spelled.append([spell(each) for each in spelled[-1]])
    return _OptionTable(tuple(texts), tuple(map(_positions, spelled)), tuple(spelled[1]))


def _positions(spellings: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, spelling in enumerate(spellings):
        found[spelling] = -1 if spelling in found else index
    found.pop("", None)
    return found


_LETTER_FORMS = [
    dict.fromkeys((letter, letter.lower(), f"({letter})", f"({letter.lower()})", f"{letter}."), Chosen(index, letter))
    for index, letter in enumerate(LETTERS)
]


def _plain_answers(table: _OptionTable) -> dict[str, Chosen]:
    """Letters that no option has as its text, and the plain texts of options: ``_read_among`` reads them so too."""
    spelled = {text for spelling in table.spellings for text in spelling}
    found: dict[str, Chosen] = {}
    for forms in _LETTER_FORMS[: len(table.texts)]:
        if spelled.isdisjoint(forms):
            found |= forms
    for text, index in table.spellings[0].items():
        if index >= 0 and table.texts[index] == text and _is_plain(text):
            found[text] = Chosen(index)
    return found


def _is_same(answer: Value, option: Value) -> bool:
    """By value; ``1,000`` as an option may be a thousand or a one and a nought."""
    return same_value(answer, option) or (isinstance(option, TwoReadings) and same_value(answer, option.number))


def _is_plain(text: str) -> bool:
    """Whether nothing is unwrapped in a text, and it is not a letter in words such as ``option B``."""
    is_plain = text.isascii() and text[0].isalnum() and text[-1].isalnum() and "\\" not in text
    return is_plain and len(text) <= MAX_CHARS and _LETTER.fullmatch(text) is None


@functools.lru_cache(maxsize=2048)
def _values_of(texts: tuple[str, ...]) -> tuple[Value | None, ...]:
    return tuple(map(_value_of, texts))


def _value_of(text: str) -> Value | None:
    """The value of a text that is one number or several; None for anything else, such as a letter."""
    return None if _LETTER.fullmatch(text) else read_number(text)


def read_gold(answer: str, options: Sequence[str]) -> Chosen | str | None:
    """The option of a row's gold answer: a single letter is the letter, even if an option has that text."""
    letter = _LETTER.fullmatch(answer.strip()) if options else None
    said = (letter[1] or letter[2]).upper() if letter is not None else ""
    index = LETTERS.index(said) if said else len(options)
    if index < len(options) and (said in answer or answer.strip() not in options):
        return Chosen(index, said)
    return read_choice(answer, options)
