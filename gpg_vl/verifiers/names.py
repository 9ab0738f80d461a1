"""Reads the name of a class. With a list of classes the answer is the one class that its words name; without a list it
is the words themselves, in any order. A name inside another word (rose in primrose) does not count.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpg_vl.verifiers.aircraft import may_have_made, was_built, without_maker
from gpg_vl.verifiers.sentences import BARE, LEAD_WORDS, changes_value, is_bare, is_in_doubt, readings

MAX_CHARS = 256
MAX_WORDS = 32

_APOSTROPHES = str.maketrans(dict.fromkeys("'’‘`´\""))
_WORD = re.compile(r"[^\W\d_]+|[0-9]+|[^\w\s,./:;·-]")
_PLAIN_WORD = re.compile(r"[a-z]+|[0-9]+")
_ARTICLES = frozenset(["a", "an", "the"])
_NOT_PLAIN = frozenset([*LEAD_WORDS, *_ARTICLES, "or", "and", "vs"])
_PARTS = re.compile(r"[,;/|+&]|\bor\b|\band\b|\bvs\b", re.IGNORECASE)
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_KIND = re.compile(
    r"(?:flower|species|breed|plant|animal|pet|dog|cat|bird|aircraft|airplane|car|model|variant)\s?:\s{0,4}",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[,;/|+&]")
_COMMENT = re.compile(r"(.*\S)\s{0,4}[(\[]([^()\[\]]{1,80})[)\]]", re.DOTALL)
_KINDS_TEXT = """
dog cat puppy kitten hound breed pointer bird fish animal flower flowers plant blossom bloom tree airplane aeroplane
aircraft airliner plane jet car vehicle automobile
"""
_KINDS = frozenset(_KINDS_TEXT.split())
"""Words that may follow a name to say what kind of thing it is."""


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    words: tuple[str, ...]
    distinct: frozenset[str]
    codes: tuple[str, ...]  # those of its words that keep their order
    is_code: bool  # all of them do


@dataclass(frozen=True, slots=True)
class _ClassList:
    by_spelling: Mapping[str, _Class | None]
    """By the words without spaces; None where several classes share one."""
    by_text: Mapping[str, Name]
    """What the class is read as where the answer is its plain text, letter by letter."""
    names: frozenset[str]
    by_rarest_word: Mapping[str, tuple[_Class, ...]]


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
    """The words of an answer; None where it has none or more than 256 characters."""
    return _read_plain(answer) or _read_alone(answer)


@functools.lru_cache(maxsize=64)
def name_reader(classes: tuple[str, ...]) -> NameReader:
    """A function that reads which class an answer names, with a cache; it returns None for no class and for several.

    >>> read = name_reader(("rose", "lenten rose", "desert-rose"))
    >>> [name and name.spelling for name in map(read, ("A rose.", "desert rose", "primrose", "rose or tulip"))]
    ['rose', 'desertrose', None, None]
    """
    listed = _tabulate(classes)
    by_text, read_other = listed.by_text, functools.lru_cache(maxsize=8192)(functools.partial(_read_in, listed))
    return lambda answer: by_text.get(answer) or read_other(answer)


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


def _as_name(words: tuple[str, ...], is_several: bool = False) -> Name:
    return Name("".join(words), words, is_several)


def _sorted(words: tuple[str, ...]) -> tuple[str, ...]:
    return words if _is_code(words) else (*sorted(filter(_is_free, words)), *_codes(words))


def _is_free(word: str) -> bool:
    """Whether a word may move: a word of letters, or a year; not the A and the 5 of A5."""
    return (len(word) > 2 and word.isalpha()) or _YEAR.fullmatch(word) is not None


def _codes(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not _is_free(word))


def _is_code(words: tuple[str, ...]) -> bool:
    """Whether the order of the words matters: codes such as 737-800."""
    return not any(len(word) > 2 and word.isalpha() for word in words)


def _read_plain(answer: str) -> Name | None:
    """A name of plain words alone, as most answers are: what ``_read_alone`` reads too, sooner."""
    if BARE.fullmatch(answer) is None:
        return None
    words = _PLAIN_WORD.findall(answer.lower())
    if len(words) > MAX_WORDS or not _NOT_PLAIN.isdisjoint(words):
        return None
    said = _singulars(words)
    return Name("".join(said), said)


@functools.lru_cache(maxsize=8192)
def _read_alone(answer: str) -> Name | None:
    if len(answer) > MAX_CHARS:
        return None
    for text in (answer,) if is_bare(answer) else reversed(list(readings(answer))):
        words = _words_of(_without_brackets(text))
        if words:
            named = words if words[1:2] and words[1].isdigit() else _without_article(words)
            return _as_name(named, _are_several(text))
    return None


def _are_several(text: str) -> bool:
    """Whether each part between commas and the like could be a name: it has a word of letters and no number."""
    lower = text.casefold()
    if not ("and" in lower or "or" in lower or "vs" in lower or _MARKS.search(text)) or not _PARTS.search(text):
        return False
    parts = [_words_of(part) for part in _PARTS.split(text)]
    return all(any(map(_is_free, words)) and not any(map(str.isdigit, words)) for words in parts)


def _read_in(listed: _ClassList, answer: str) -> Name | None:
    if len(answer) > MAX_CHARS:
        return None
    whole = None
    for text in (answer,) if is_bare(answer) else readings(answer):
        whole = text if whole is None else whole
        found = _read_one(text, listed)
        if found is None and ":" in text and _KIND.match(text):
            found = _read_one(_KIND.sub("", text, count=1), listed)
        if found is not None and _begins_with_none(whole, text, listed):
            return _as_name(found.words)
    return None


def _begins_with_none(whole: str, text: str, listed: _ClassList) -> bool:
    """Whether the beginning of the sentence that ``text`` ends names no class itself."""
    return not _named(_words_of(whole[: max(0, whole.rfind(text))]), listed)


def _read_one(text: str, listed: _ClassList) -> _Class | None:
    text = _without_brackets(text)
    comment = _COMMENT.fullmatch(text) if text.endswith((")", "]")) else None
    if comment is not None and _YEAR.fullmatch(comment[2]):
        return _read_one(f"{comment[1]} {comment[2]}", listed)
    if comment is not None and not is_in_doubt(comment[2]) and not _named(_words_of(comment[2]), listed):
        return _read_one(comment[1], listed)
    if _holds_another(text, listed):
        return None
    said = _words_of(text)
    words = _without_article(said)
    whole = listed.by_spelling.get("".join(said)) or listed.by_spelling.get("".join(words))
    if whole is not None:
        return whole
    if changes_value(text):
        return None
    named = _largest(_named(words, listed))
    if len(named) != 1:
        return None
    found = named[0]
    return found if _others_may_stand(text, words, found, listed) else None


def _holds_another(text: str, listed: _ClassList) -> bool:
    """Whether a comma, a slash or the like sets off another class: ``tiger, lily`` is not a tiger lily."""
    parts = _MARKS.split(text) if _MARKS.search(text) else ()
    if not parts or text.strip() in listed.names:
        return False
    spelled = ("".join(_without_article(_words_of(part))) for part in parts)
    return sum(bool(part) for part in parts) > 1 and any(part in listed.by_spelling for part in spelled)


def _without_brackets(text: str) -> str:
    return text[1:-1].strip() if text[:1] + text[-1:] in ("()", "[]") else text


def _words_of(text: str) -> tuple[str, ...]:
    """Words and numbers in lower case, without accents, apostrophes and plurals; () if there is a hidden character."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))
        if any(unicodedata.category(char) in ("Cf", "Nd", "No") and not char.isascii() for char in text):
            return ()
    found = _WORD.findall(text.translate(_APOSTROPHES).casefold())
    return _singulars(found) if len(found) <= MAX_WORDS else ()


def _singulars(words: list[str]) -> tuple[str, ...]:
    return tuple([_singular(word) if word[-1] in "st" else word for word in words])


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us")):
        return word[:-1]
    return "saint" if word == "st" else word


def _without_article(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if len(words) > 1 and words[0] in _ARTICLES else words


def _named(words: tuple[str, ...], listed: _ClassList) -> list[_Class]:
    """Every class whose words all stand in the answer, or whose spelling a run of its words has."""
    found: dict[str, _Class] = {}
    said = set(words)
    for word in said:
        for each in listed.by_rarest_word.get(word, ()):
            if each.distinct <= said and not each.is_code and _holds(words, each) and _in_order(each.codes, words):
                found[each.name] = each
    for start in range(len(words)):
        spelling = ""
        for word in words[start : start + 12]:
            spelling += word
            run = listed.by_spelling.get(spelling)
            if run is not None:
                found[run.name] = run
    return list(found.values())


def _in_order(codes: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Whether the codes of a name stand in its order: no ``5A`` for ``A5``."""
    return len(codes) < 2 or codes == tuple([word for word in words if word in codes])


def _largest(named: Sequence[_Class]) -> list[_Class]:
    """The classes that are not part of another one found: ``lenten rose`` does not name a rose."""
    if len(named) < 2:
        return list(named)
    return [each for each in named if not any(other is not each and _is_part(each, other) for other in named)]


def _is_part(each: _Class, other: _Class) -> bool:
    return sorted(each.words) != sorted(other.words) and _holds(other.words, each)


def _holds(words: Sequence[str], part: _Class) -> bool:
    """Whether each word of a class stands among the words, as often as in its name."""
    if not part.distinct.issubset(words):
        return False
    return len(part.distinct) == len(part.words) or all(
        words.count(word) >= part.words.count(word) for word in part.distinct
    )


def _others_may_stand(text: str, words: tuple[str, ...], found: _Class, listed: _ClassList) -> bool:
    """Whether the words beside the class's are its maker before it, or after it the kind of thing or a sub-variant."""
    name = found.distinct
    first = next((n for n, word in enumerate(words) if word in name), 0)
    last = max((n for n, word in enumerate(words) if word in name), default=len(words) - 1)
    has_number = any(word.isdigit() for word in found.words)
    after = words[last + 1 :]
    is_variant = len(after) == 1 and after[0].isdigit() and _may_have_variant(found.words, after[0], listed)
    if first > 4 or not (is_variant or _KINDS.issuperset(after)):
        return False
    inside = words[first : last + 1]
    once = all(words.count(word) <= found.words.count(word) for word in name)
    may_begin = may_have_made(words[:first], found.words, has_number)
    return once and name.issuperset(inside) and may_begin and _have_part_of(found, _PARTS.split(text))


def _have_part_of(found: _Class, parts: Sequence[str]) -> bool:
    """Whether each part of an answer has a word of the class: none names something else."""
    if len(parts) == 1:
        return True
    spelled = "".join(found.words)
    words = map(_words_of, parts)
    return all(not inside or any(word in found.distinct or word in spelled for word in inside) for inside in words)


def _may_have_variant(name: tuple[str, ...], variant: str, listed: _ClassList) -> bool:
    """Whether a number after a name may be its year or its variant: the name has one number, its last."""
    numbers = [word for word in name if word.isdigit()]
    if name[-1:] != tuple(numbers) or "".join((*name[:-1], variant)) in listed.by_spelling:
        return False
    return _YEAR.fullmatch(variant) is not None or was_built(name, variant)


def _tabulate(classes: tuple[str, ...]) -> _ClassList:
    by_spelling: dict[str, _Class | None] = {}
    codes: dict[str, _Class | None] = {}
    listed: list[_Class] = []
    for name in classes:
        words = _words_of(str(name))
        if not words:
            continue
        each = _Class(str(name), words, frozenset(words), _codes(words), _is_code(words))
        listed.append(each)
        spelling = "".join(words)
        by_spelling[spelling] = None if spelling in by_spelling else each
        code = without_maker(words)
        if code != words and sum(map(str.isdigit, code)) > 1:  # 146-200 alone is the BAE 146-200
            codes["".join(code)] = None if "".join(code) in codes else each
    by_text = {each.name: _as_name(each.words) for each in listed if by_spelling["".join(each.words)] is each}
    plain = {text: name for text, name in by_text.items() if _is_plain(text)}
    return _ClassList({**codes, **by_spelling}, plain, frozenset(classes), _by_rarest_word(listed))


def _is_plain(text: str) -> bool:
    """Whether nothing is unwrapped or set apart in a text: it is its own first reading."""
    return text[:1].isalnum() and text[-1:].isalnum() and text.isascii() and "\\" not in text and len(text) <= MAX_CHARS


def _by_rarest_word(listed: Sequence[_Class]) -> dict[str, tuple[_Class, ...]]:
    """Each class by the one of its words that the fewest classes have: a word of an answer then leads to few."""
    frequency = Counter(word for each in listed for word in each.distinct)
    by_word: defaultdict[str, list[_Class]] = defaultdict(list)
    for each in listed:
        by_word[min(each.words, key=lambda word: (frequency[word], -len(word)))].append(each)
    return {word: tuple(found) for word, found in by_word.items()}
