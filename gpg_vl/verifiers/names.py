"""Reads the name of a class without a list of classes: its words, in any order."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpg_vl.verifiers.sentences import BARE, LEAD_WORDS, is_bare, readings

MAX_CHARS = 256
MAX_WORDS = 32

_APOSTROPHES = str.maketrans(dict.fromkeys("'’‘`´\""))
_WORD = re.compile(r"[^\W\d_]+|[0-9]+|[^\w\s,./:;·-]")
_PLAIN_WORD = re.compile(r"[a-z]+|[0-9]+")
_ARTICLES = frozenset(["a", "an", "the"])
_NOT_PLAIN = frozenset([*LEAD_WORDS, *_ARTICLES, "or", "and", "vs"])
PARTS = re.compile(r"[,;/|+&]|\bor\b|\band\b|\bvs\b", re.IGNORECASE)
YEAR = re.compile(r"(?:19|20)[0-9]{2}")
MARKS = re.compile(r"[,;/|+&]")
COMMENT = re.compile(r"(.*\S)\s{0,4}[(\[]([^()\[\]]{1,80})[)\]]", re.DOTALL)


class Name(NamedTuple):
    """A name that was read: its words, and these without spaces."""

    spelling: str
    said: tuple[str, ...]
    is_several: bool = False
    """Whether a comma, a slash or the like sets words apart that could each be a name."""

    @property
    def words(self) -> tuple[str, ...]:
        """Sorted, unless their order matters."""
        return _sorted(self.said)

    def __str__(self) -> str:
        return " ".join(self.words)


NameReader = Callable[[str], Name | None]


def read_name(answer: str) -> Name | None:
    """The words of an answer; None where it has none or more than 256 characters.

    Most answers are plain words: they are read at once, as ``_read_alone`` reads them too.
    """
    if BARE.fullmatch(answer) is not None:
        words = _PLAIN_WORD.findall(answer.lower())
        if _NOT_PLAIN.isdisjoint(words) and len(words) <= MAX_WORDS:
            said = _singulars(words)
            return Name("".join(said), said)
    return _read_alone(answer)


def is_same_name(answer: Name | None, gold: Name | None) -> bool:
    """Whether two names have the same words, however they are spaced, or in another order; nothing is the same as None.

    Several names are not the one name that their words would make: ``tiger, lily`` is not a tiger lily.

    >>> is_same_name(read_name("F-16AB"), read_name("f-16 A/B")), is_same_name(read_name("rose"), read_name("primrose"))
    (True, False)
    """
    if answer is None or gold is None or (answer.is_several and not gold.is_several):
        return False
    if answer.spelling == gold.spelling:
        return True
    has_its_words = len(answer.spelling) == len(gold.spelling) and set(answer.said) == set(gold.said)
    return has_its_words and answer.words == gold.words


def as_name(words: tuple[str, ...], is_several: bool = False) -> Name:
    return Name("".join(words), words, is_several)


def _sorted(words: tuple[str, ...]) -> tuple[str, ...]:
    return words if is_code(words) else (*sorted(filter(_is_free, words)), *codes_of(words))


def _is_free(word: str) -> bool:
    """Whether a word may move: a word of letters, or a year; not the A and the 5 of A5."""
    return (len(word) > 2 and word.isalpha()) or YEAR.fullmatch(word) is not None


def codes_of(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not _is_free(word))


def is_code(words: tuple[str, ...]) -> bool:
    """Whether the order of the words matters: codes such as 737-800."""
    return not any(len(word) > 2 and word.isalpha() for word in words)


@functools.lru_cache(maxsize=8192)
def _read_alone(answer: str) -> Name | None:
    if len(answer) > MAX_CHARS:
        return None
    for text in (answer,) if is_bare(answer) else reversed(list(readings(answer))):
        text = with_year(text)
        words = words_of(without_brackets(text))
        if words:
            named = words if words[1:2] and words[1].isdigit() else without_article(words)
            return as_name(named, _are_several(text))
    return None


def _are_several(text: str) -> bool:
    """Whether each part between commas and the like could be a name: it has a word of letters and no number."""
    lower = text.casefold()
    if not ("and" in lower or "or" in lower or "vs" in lower or MARKS.search(text)) or not PARTS.search(text):
        return False
    parts = [words_of(part) for part in PARTS.split(text)]
    return all(any(map(_is_free, words)) and not any(map(str.isdigit, words)) for words in parts)


def with_year(text: str) -> str:
    """``Audi A5 Coupe (2012)`` as ``Audi A5 Coupe 2012``."""
    comment = COMMENT.fullmatch(text) if text.endswith((")", "]")) else None
    return f"{comment[1]} {comment[2]}" if comment is not None and YEAR.fullmatch(comment[2]) else text


def without_brackets(text: str) -> str:
    return text[1:-1].strip() if text[:1] + text[-1:] in ("()", "[]") else text


def words_of(text: str) -> tuple[str, ...]:
    """Words and numbers in lower case, without accents, apostrophes and plurals; () if there is a hidden character."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))
        if any(unicodedata.category(char) in ("Cf", "Nd", "No") and not char.isascii() for char in text):
            return ()
    if "'" in text or '"' in text or "`" in text or not text.isascii():
        text = text.translate(_APOSTROPHES)
    found = _WORD.findall(text.casefold())
    return _singulars(found) if len(found) <= MAX_WORDS else ()


def _singulars(words: list[str]) -> tuple[str, ...]:
    return tuple([_singular(word) if word[-1] == "s" or word == "st" else word for word in words])


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us")):
        return word[:-1]
    return "saint" if word == "st" else word


def without_article(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if len(words) > 1 and words[0] in _ARTICLES else words
