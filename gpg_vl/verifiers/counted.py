"""What may follow a number without changing it: one plain noun phrase of the things counted, and where they are.

English: ``red cubes in the image``, the things in the plural after any number but one. No unit, fraction, multiple,
collective, compound (``4-legged animals``), bound or doubt. Chinese: a classifier of single things and a noun.
"""

from __future__ import annotations

import functools
import re

from gpg_vl.verifiers.number_words import CHINESE_NUMERALS, NUMBER_WORDS
from gpg_vl.verifiers.sentences import CHANGES

_WORDS = re.compile(r"(?:\s{1,3}[^\W\d_]+(?:['-][^\W\d_]+){0,4},?){1,14}")
_WORD = re.compile(r"[^\W\d_]+")
_CHINESE = re.compile(
    r"\s?(?:个|[只条张位名辆架艘朵棵颗片支把件头匹座台枚粒幅盏扇株枝根尾栋面顶](?!以)|人$|种(?=[\u4e00-\u9fff])|块(?=[\u4e00-\u9fff]))"
    r"\s?[\u4e00-\u9fff]{0,12}"
)
_CHINESE_CHANGES = re.compile(
    f"[半多余或至到倍分之几约不非缺吧吗呢壹贰叁肆柒捌玖佰仟{CHINESE_NUMERALS}]|以[上下内外]|左右|上下|小时|钟头|星期|月|世纪|百分|单位|可能|大概|也许|块钱|另外|其他|其它|除外|少了"
)
_OTHER_VALUE_TEXT = """
out of to or percent per times squared cubed point and/or vs versus by each apiece every fold ish etc max maximum min
minimum tops approx est estimate estimated guess guesses unsure uncertain unknown something somewhat extra additional
missing hidden short shy away off counting further spare uncounted overflow wise odd so ago past
half halves thirds fourths fifths sixths sevenths eighths ninths tenths twelfths hundredths thousandths quarters
wholes pair pairs couple couples trio trios duo duos quartet quartets dozen dozens score scores gross hundreds thousands
millions billions billion set sets group groups row rows column columns bunch bunches stack stacks cluster clusters
team teams pile piles batch batches series pack packs packet packets packages bundle bundles heap heaps crowd crowds
herd herds flock flocks swarm swarms line collection collections family families crew crews squad squads lot
lots layer layers sheaf sheaves gang gangs school shoal pride cases crates triplets twins triples doubles
other others idea ideas clue clues answer answers reason reasons doubts problem problems way ways need wonder single
fourth fifth seventh eighth ninth tenth eleventh nth
tens halfs octets estimates as then like likely unlikely potential plausible possible supposed alleged hopefully fake
negative guesstimate errors error including excluding
"""
_UNITS_TEXT = """
mm cm dm m km inch inches ft foot feet yd yard yards mile miles metre metres meter meters centimetre centimetres
centimeter centimeters kilometre kilometres kilometer kilometers millimetre millimetres millimeter millimeters mg g kg
gram grams kilogram kilograms kilo kilos kgs lb lbs pound pounds oz ounce ounces ton tons tonne tonnes ml l liter liters
litre litres gallon gallons pint pints ms s sec secs second seconds minute minutes mins hr hrs hour hours day days week
weeks month months year years decade decades century centuries am pm a.m p.m o'clock oclock dollar dollars usd cent
cents euro euros eur pence yuan rmb yen bucks degree degrees deg radian radians rad celsius fahrenheit watt watts kw
volts amps hz khz mhz ghz bytes kb mb gb tb pixel pixels px acre acres hectare hectares mph kmh kph percents percentage
newtons joules pesos rupees pounds francs pct quid knots calories teaspoons tablespoons
d k b x th st nd rd unit units
"""
_BEFORE_NOUNS = "star door leaf story storey wheel piece ply way digit speed bit seater bedroom dimensional"
_NEVER = frozenset(f"{_OTHER_VALUE_TEXT} {_UNITS_TEXT} {_BEFORE_NOUNS}".split()) | NUMBER_WORDS | CHANGES
_COMPOUND = re.compile(
    r"(?:legged|sided|eyed|headed|wheeled|cornered|pointed|footed|armed|winged|horned|tailed|handed|edged|angled|fingered"
    r"|toed|leaved|petaled|petalled|layered|storied|storeyed|tiered|pronged|masted|engined|seater|bladed|stringed|humped"
    r"|dimensional|(?:een|ie|ix|lf|undred|ousand)th|\b(?:kilo|milli|centi|mega|giga|micro|nano)[a-z]+|\Bfold|\bteen)s?\b"
)
_NO_PHRASE = frozenset(["a", "an", "the", "this", "that", "these", "those", "another", "its", "it", "i", "we"])
_PLURALS_TEXT = """
people persons men women children fish sheep deer geese mice teeth police cattle aircraft spacecraft watercraft dice
cacti fungi oxen bison moose fruit fruits livestock wildlife folk offspring salmon trout shrimp swine octopi loci foci
"""
_PLURALS = frozenset(_PLURALS_TEXT.split())
_NO_PLURAL = re.compile(r".*(?:is|ss|us|ness)|lens|always|perhaps|minus|yes|was|does|has|its|theirs|ours|lots")
_WHERE_TEXT = """
in on at are is were was total altogether overall visible shown present here there near inside beside behind standing
sitting facing remaining remain remains left that which depicted displayed pictured playing wearing holding walking
running riding eating flying swimming lying looking hanging floating parked
"""
_WHERE = frozenset(_WHERE_TEXT.split())
_SEEN = frozenset(["visible", "shown", "total", "standing", "sitting", "remaining", "hanging", "flying", "parked"])
_WHERE_ALONE = re.compile(
    r"(?:are |is )?(?:visible |shown |present )?(?:(?:in )?total|in all|altogether|overall|visible|shown|present|here"
    r"|(?:here )?(?:in|on) (?:the|this) (?:[a-z]+ )?[a-z]+)"
)


def is_what_is_counted(number: int, rest: str) -> bool:
    """Whether the number is followed by nothing, or by the things that it counts.

    >>> [is_what_is_counted(4, rest) for rest in (" red cubes", " cats in the hat", "-legged cats", " fourths", " kg")]
    [True, True, False, False, False]
    """
    return not rest or _is_plain(rest, abs(number) == 1)


@functools.lru_cache(maxsize=2048)
def _is_plain(rest: str, is_one: bool) -> bool:
    if not rest.isascii() and _CHINESE_CHANGES.search(rest):
        return False
    if not rest.isascii() and _CHINESE.fullmatch(rest):
        return True
    if _WORDS.fullmatch(rest) is None:
        return False
    lower = rest.casefold()
    if not _NEVER.isdisjoint(_WORD.findall(lower)) or _COMPOUND.search(lower):
        return False
    return _is_phrase(lower.replace(",", " ").split(), is_one)


def are_names(text: str, number: int) -> bool:
    """Whether the text lists this many names of things, such as ``red, blue and green`` for 3."""
    names = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", text.strip())
    return len(names) == number > 1 and all(is_what_is_counted(1, f" {name}") for name in names)


def _is_phrase(words: list[str], is_one: bool) -> bool:
    if len(words) > 1 and words[0] in _SEEN and words[1] not in _WHERE:
        words = words[1:]
    end = next((n for n, word in enumerate(words) if word in _WHERE), len(words))
    if end == 0:
        return _WHERE_ALONE.fullmatch(" ".join(words)) is not None
    phrase = words[:end]
    if any(word in _NO_PHRASE or len(word) == 1 for word in phrase) or phrase[0] == "and":
        return False
    return is_one or _is_plural(phrase[-1].rpartition("-")[2])


def _is_plural(noun: str) -> bool:
    return noun in _PLURALS or (
        noun.endswith(("s", "men", "children", "people", "fish", "folk", "craft")) and not _NO_PLURAL.fullmatch(noun)
    )
