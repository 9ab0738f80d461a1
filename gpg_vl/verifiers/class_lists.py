"""Reads which class of a list an answer names: the one class whose words, and no other's, it holds.

A name inside another word (rose in primrose) does not count.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpg_vl.verifiers.aircraft import may_have_made, was_built, without_maker
from gpg_vl.verifiers.names import (
    COMMENT,
    MARKS,
    MAX_CHARS,
    PARTS,
    YEAR,
    Name,
    NameReader,
    as_name,
    codes_of,
    is_code,
    with_year,
    without_article,
    without_brackets,
    words_of,
)
from gpg_vl.verifiers.sentences import changes_value, is_bare, is_in_doubt, readings

_SEPARATORS = re.compile(r"[\W_]+")
_ARTICLE = re.compile(r"(?:an?|the)[\s_]", re.IGNORECASE)
_KIND = re.compile(
    r"(?:flower|species|breed|plant|animal|pet|dog|cat|bird|aircraft|airplane|car|model|variant)\s?:\s{0,4}",
    re.IGNORECASE,
)
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
    last_words: frozenset[str]
    """Words that an answer may end in: those of classes, and kinds."""
    has_variants: bool
    """Whether it may end in a number that is no word of a class."""
    by_rarest_word: Mapping[str, tuple[_Class, ...]]


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


def _read_in(listed: _ClassList, answer: str) -> Name | None:
    if len(answer) > MAX_CHARS:
        return None
    if is_bare(answer):
        alone = _read_words(answer, listed)
        return None if alone is None else as_name(alone.words)
    whole = None
    for text in readings(answer):
        whole = text if whole is None else whole
        found = _read_one(text, listed)
        if found is None and ":" in text and _KIND.match(text):
            found = _read_one(_KIND.sub("", text, count=1), listed)
        if found is not None and _begins_with_none(whole, text, listed):
            return as_name(found.words)
    return None


def _begins_with_none(whole: str, text: str, listed: _ClassList) -> bool:
    """Whether the beginning of the sentence that ``text`` ends names no class itself."""
    return not _named(words_of(whole[: max(0, whole.rfind(text))]), listed)


def _read_one(text: str, listed: _ClassList) -> _Class | None:
    text = with_year(without_brackets(text))
    comment = COMMENT.fullmatch(text) if text.endswith((")", "]")) else None
    if comment is not None and not is_in_doubt(comment[2]) and not _named(words_of(comment[2]), listed):
        return _read_one(comment[1], listed)
    return None if _holds_another(text, listed) else _read_words(text, listed)


def _read_words(text: str, listed: _ClassList) -> _Class | None:
    """The class of a text without brackets around it, a comment behind it or another class set off in it."""
    said = words_of(text)
    words = without_article(said) if _ARTICLE.match(text) else said
    whole = listed.by_spelling.get("".join(said))
    if whole is None and words is not said:
        whole = listed.by_spelling.get("".join(words))
    if whole is not None:
        return whole
    may_end = words and (words[-1] in listed.last_words or (listed.has_variants and words[-1].isdigit()))
    if not may_end or changes_value(text):
        return None
    named = _largest(_named(words, listed))
    if len(named) != 1:
        return None
    found = named[0]
    return found if _others_may_stand(text, words, found, listed) else None


def _holds_another(text: str, listed: _ClassList) -> bool:
    """Whether a comma, a slash or the like sets off another class: ``tiger, lily`` is not a tiger lily."""
    parts = MARKS.split(text) if MARKS.search(text) else ()
    if not parts or text.strip() in listed.names:
        return False
    spelled = ("".join(without_article(words_of(part))) for part in parts)
    return sum(bool(part) for part in parts) > 1 and any(part in listed.by_spelling for part in spelled)


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
    has_number_after = len(after) == 1 and after[0].isdigit()
    is_variant = has_number_after and _may_have_variant(found.words, after[0], listed, f"-{after[0]}" in text)
    if first > 4 or not (is_variant or _KINDS.issuperset(after)):
        return False
    inside = words[first : last + 1]
    once = all(words.count(word) <= found.words.count(word) for word in name)
    may_begin = may_have_made(words[:first], found.words, has_number)
    return once and name.issuperset(inside) and may_begin and _have_part_of(found, PARTS.split(text))


def _have_part_of(found: _Class, parts: Sequence[str]) -> bool:
    """Whether each part of an answer has a word of the class: none names something else."""
    if len(parts) == 1:
        return True
    spelled = "".join(found.words)
    words = map(words_of, parts)
    return all(not inside or any(word in found.distinct or word in spelled for word in inside) for inside in words)


def _may_have_variant(name: tuple[str, ...], variant: str, listed: _ClassList, is_joined: bool) -> bool:
    """Whether a number after a name may be its year or its variant: the name has one number, its last.

    Args:
        is_joined: a hyphen joins it to the name, so that it is no year
    """
    if not _ends_in_its_number(name) or "".join((*name[:-1], variant)) in listed.by_spelling:
        return False
    return (YEAR.fullmatch(variant) is not None and not is_joined) or was_built(name, variant)


def _ends_in_its_number(name: tuple[str, ...]) -> bool:
    return name[-1:] == tuple([word for word in name if word.isdigit()])


def _tabulate(classes: tuple[str, ...]) -> _ClassList:
    by_spelling: dict[str, _Class | None] = {}
    codes: dict[str, _Class | None] = {}
    listed: list[_Class] = []
    for name in classes:
        words = words_of(str(name))
        if not words:
            continue
        each = _Class(str(name), words, frozenset(words), codes_of(words), is_code(words))
        listed.append(each)
        spelling = "".join(words)
        by_spelling[spelling] = None if spelling in by_spelling else each
        code = without_maker(words)
        if code != words and sum(map(str.isdigit, code)) > 1:  # 146-200 alone is the BAE 146-200
            codes["".join(code)] = None if "".join(code) in codes else each
        joined = _SEPARATORS.sub("", each.name).casefold()  # coltsfoot for colts foot
        if joined != spelling:
            codes[joined] = None if joined in codes else each
    by_text = {each.name: as_name(each.words) for each in listed if by_spelling["".join(each.words)] is each}
    plain = {text: name for text, name in by_text.items() if _is_plain(text)}
    last_words = _KINDS.union(*(each.distinct for each in listed))
    has_variants = any(_ends_in_its_number(each.words) for each in listed)
    spellings = {**codes, **by_spelling}
    return _ClassList(spellings, plain, frozenset(classes), last_words, has_variants, _by_rarest_word(listed))


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
