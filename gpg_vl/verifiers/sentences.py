"""Removes the words before an answer in a short sentence: ``Answer:``, ``The measure of angle A is``.

Words that change the value (not, at least, half, about, wrong) are never removed, nor is a beginning that holds a
number: such a sentence holds another value or two of them, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from gpg_vl.verifiers.unwrap import normalise_glyphs, without_wrappers

MAX_LEADS = 3

_DOUBTS_TEXT = """
not no never neither nor none nothing except without unlike wrong incorrect false untrue either or whether if unless
maybe perhaps possibly probably might may could can cannot isn wasn aren doesn don didn won instead rather initially
previously but however although though besides excluding another other else t ain approximately roughly about around
approx circa est estimate estimated estimation guess guessing unsure uncertain rounded nearest
maximum minimum max min
"""
_AMOUNTS_TEXT = """
than least most more less fewer under over above below nearly almost between beyond exceeds up twice double triple
half quarter third thrice times minus plus opposite supplement complement reciprocal first two three four five six
seven eight nine ten eleven twelve hundred thousand dozen couple few several some many any
"""
_DOUBTS = frozenset(_DOUBTS_TEXT.split())
CHANGES = _DOUBTS | frozenset(_AMOUNTS_TEXT.split())
"""Words that turn a value beside them into another one."""

_OPENING = (
    r"(?:(?:so|thus|hence|therefore|then|finally|well|ok|okay|in conclusion|in total"
    r"|(?:in|from|based on|looking at) the (?:image|picture|photo|figure|scene))\b[,:]?\s+){0,3}"
)
_CORE = (
    r"(?:the\s+|my\s+|our\s+|a\s+)?(?:(?:final|correct|right|best|only|most likely|overall)\s+){0,2}"
    r"(?:answer|result|solution|value|option|choice|total|count|number|output|response|prediction|class|category|name|"
    r"label|conclusion|bounding box(?:es)?|box(?:es)?|coordinates|position|location|length|area|angle|ans)"
)
_LINK = r"\s{0,4}(?:[:=]|(?:is|are|equals?|should be|would be|must be|was)\b)\s{0,4}:?\s{0,4}"
_LABEL = re.compile(
    rf"{_OPENING}(?:{_CORE}{_LINK}|(\*\*|__){_CORE}(?:\1{_LINK}|{_LINK}\1)\s{{0,4}})",
    re.IGNORECASE,
)
_OPENED = re.compile(rf"(?=\w){_OPENING.replace('{0,3}', '{1,3}')}(?=\S)", re.IGNORECASE)
_I_CHOOSE = re.compile(
    rf"{_OPENING}(?:(?:i|we)(?:'d| would|'ll| will)?\s+)?"
    r"(?:choose|pick|select|go with|say|(?:think|believe) it(?: is|'s))\s+",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"((?:\\?[^\W\d_][\w'△∠^{}\\-]{0,40}[ ]{1,2}|[△∠]\s?[A-Za-z]{1,3}\s{1,2}){1,14})"
    r"(?:is|are|was|equals|measures|be|has|have|shows|depicts)\s{1,2}(?:equal to\s{1,2}|exactly\s{1,2}|:\s{0,2})?",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    rf"{_OPENING}(?:it|this|that|these|they|there|i|we)"
    r"(?:'s|'re|\s(?:is|are|was|were|see|count|have|get|found|can see))\s{1,2}",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"(?:因此|所以|故|综上|综上所述|于是|即|那么|由此可得|可得|则)?[,，]?\s{0,2}(?:"
    r"(?:本题|此题|该题|这道题)?的?(?:最终|正确|最后)?的?(?:答案|结果|选项|坐标|位置|边界框|数量|总数)(?:应该是|应该为|应是|应为|是|为)?\s{0,2}:?"
    r"|(?:应该?|正确)?选择?项?\s{0,2}:?|(?:图中|图片中|一)?(?:一)?(?:总)?共(?:计|有|是)?|(?:图中|图片中|画面中|这里)?有"
    r"|[^\d,，。:;不非约或和与至超大小多少半倍能补余差]{1,14}(?:等于|是|为|=)"
    r")\s{0,2}"
)


_LEAD_WORDS_TEXT = """
is are was were be has have equal equals measures shows depicts see count get found choose pick select go say so thus
hence therefore then finally well ok okay in from based looking
"""
LEAD_WORDS = frozenset(_LEAD_WORDS_TEXT.split())
"""Every beginning contains one of these or a sign; without any, the other patterns are not tried."""
_SIGN_OF_LEAD = re.compile(r"[:=\u4e00-\u9fff]|'s|'re")
BARE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,80}[A-Za-z0-9])?")
_CONDITION = re.compile(r"(?:when|where|since|because|assuming|suppose|given|let|for)\b", re.IGNORECASE)
_CHINESE_CONDITION = re.compile("当|设|若|如果|已知|令|因为")
_WORD = re.compile(r"[^\W\d_]+")


def readings(answer: str, values: Collection[str] = ()) -> Iterator[str]:
    """The answer unwrapped, then without its labels and sentence beginnings, one at a time, each time unwrapped again.

    Args:
        values: other values that an answer may have, folded: a sentence that begins with one of them holds two

    >>> list(readings("The answer is **30°**.")), list(readings("The answer is not 30"))
    (['The answer is **30°**', '30°'], ['The answer is not 30', 'not 30'])
    """
    text = without_wrappers(normalise_glyphs(answer))
    yield text
    for _ in range(MAX_LEADS):
        rest = drop_lead(text, values)
        if rest is None:
            return
        text = without_wrappers(rest)
        yield text


def is_bare(text: str) -> bool:
    """Whether the text is its own and only reading, told at once for plain words without a sentence around them."""
    return BARE.fullmatch(text) is not None and LEAD_WORDS.isdisjoint(text.casefold().replace("-", " ").split())


def drop_lead(text: str, values: Collection[str] = ()) -> str | None:
    """What follows a label or the beginning of a sentence; None if there is no such beginning or nothing follows."""
    lower = text.lower()
    if LEAD_WORDS.isdisjoint(_WORD.findall(lower)) and _SIGN_OF_LEAD.search(lower) is None:
        return None
    match = _LABEL.match(text) or _IT_IS.match(text) or _I_CHOOSE.match(text)
    if match is None:
        match = _SENTENCE.match(text)
        if match is not None and (changes_value(match[1]) or _names_one(match[1], values)):
            match = None
    if match is None:
        match = _OPENED.match(text) or (None if text.isascii() else _CHINESE.match(text))
        match = None if match is not None and changes_value(match[0]) else match
    return text[match.end() :] or None if match is not None else None


def _names_one(words: str, values: Collection[str]) -> bool:
    padded = f" {words.casefold().strip()} "
    return any(f" {value} " in padded for value in values)


def is_in_doubt(words: str) -> bool:
    """Whether some word withdraws a value or adds another: not, or, maybe."""
    return not _DOUBTS.isdisjoint(_WORD.findall(words.lower()))


def changes_value(words: str) -> bool:
    """Whether some word changes the value that the sentence ends in, or is a value itself."""
    if not CHANGES.isdisjoint(_WORD.findall(words.lower())) or _CONDITION.match(words) is not None:
        return True
    return not words.isascii() and _CHINESE_CONDITION.search(words) is not None
