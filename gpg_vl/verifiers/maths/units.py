"""Units as words: what they measure and how large they are. They are read if written and never required.

A unit of another kind makes an answer wrong, and the same size in another unit of its kind is right.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from gpg_vl.verifiers.maths.exact import ONE, PI, Exact, divide, rational, symbol


@dataclass(frozen=True, slots=True)
class Unit:
    """What is measured, and the unit's size among units of that kind; an empty kind agrees with every kind.

    ``is_free`` units may stand in an answer where the gold answer names none: sizes and words for money, but neither
    signs of money, nor scales of temperature, nor multiples.
    """

    kind: str
    size: Exact | None = None
    is_free: bool = True


NO_UNIT = Unit("")
PERCENT = Unit("percent")
DEGREE = Unit("angle", ONE)

_INCH, _LITRE = Fraction(254, 10), 10**6  # in mm, in mm³
FOOT = Unit("length", rational(12 * _INCH), is_free=False)
MARKS = {
    "'": (FOOT, Unit("angle", rational(Fraction(1, 60)))),
    '"': (Unit("length", rational(_INCH)), Unit("angle", rational(Fraction(1, 3600)))),
}
"""What stands for feet and inches, and for minutes and seconds of arc: the other answer's unit tells which."""
_LENGTHS: dict[str, Fraction | int] = {
    **dict.fromkeys(("mm", "millimeter", "millimetre", "毫米", "㎜"), 1),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "厘米", "公分", "㎝"), 10),
    **dict.fromkeys(("dm", "decimeter", "decimetre", "分米"), 100),
    **dict.fromkeys(("m", "meter", "metre", "米", "公尺"), 1000),
    **dict.fromkeys(("km", "kilometer", "kilometre", "千米", "公里", "㎞"), 10**6),
    **dict.fromkeys(("in", "inch", "inche", "英寸", "寸"), _INCH),
    **dict.fromkeys(("ft", "foot", "feet", "英尺"), 12 * _INCH),
    **dict.fromkeys(("yd", "yard", "码"), 36 * _INCH),
    **dict.fromkeys(("mi", "mile", "英里"), 63360 * _INCH),
    **dict.fromkeys(("nauticalmile", "nmi", "海里"), 1_852_000),
}
_GENERIC_LENGTHS = ("unit", "单位", "个单位", "长度单位")
_TIMES: dict[str, Fraction | int] = {
    **dict.fromkeys(("ms", "millisecond", "毫秒"), Fraction(1, 1000)),
    **dict.fromkeys(("s", "sec", "second", "秒", "秒钟"), 1),
    **dict.fromkeys(("min", "minute", "分钟", "分"), 60),
    **dict.fromkeys(("h", "hr", "hour", "小时", "个小时", "时"), 3600),
    **dict.fromkeys(("day", "天", "日"), 86400),
    **dict.fromkeys(("week", "周", "星期"), 604_800),
}
_MONTHS: dict[str, Fraction | int] = {
    **dict.fromkeys(("month", "月", "个月"), 1),
    **dict.fromkeys(("year", "yr", "年"), 12),
}
_MASSES: dict[str, Fraction | int] = {
    **dict.fromkeys(("mg", "milligram", "毫克"), Fraction(1, 1000)),
    **dict.fromkeys(("g", "gram", "克"), 1),
    **dict.fromkeys(("kg", "kilogram", "千克", "公斤", "㎏"), 1000),
    **dict.fromkeys(("ton", "tonne", "吨"), 10**6),
    **dict.fromkeys(("lb", "pound", "磅"), Fraction(45359237, 100000)),
    **dict.fromkeys(("oz", "ounce", "盎司"), Fraction(45359237, 1600000)),
}
_VOLUMES: dict[str, Fraction | int] = {
    **dict.fromkeys(("ml", "milliliter", "millilitre", "毫升", "cc", "㎖"), 1000),
    **dict.fromkeys(("cl", "centiliter", "centilitre"), 10_000),
    **dict.fromkeys(("dl", "deciliter", "decilitre"), 100_000),
    **dict.fromkeys(("l", "liter", "litre", "升", "公升"), _LITRE),
    **dict.fromkeys(("gal", "gallon", "加仑"), 231 * _INCH**3),
    "quart": 231 * _INCH**3 / 4,
    "pint": 231 * _INCH**3 / 8,
    "cup": 231 * _INCH**3 / 16,
}
_AREAS: dict[str, Fraction | int] = {
    **dict.fromkeys(("ha", "hectare", "公顷"), 10**10),
    **dict.fromkeys(("acre", "英亩"), 4840 * (36 * _INCH) ** 2),
    "亩": Fraction(2 * 10**9, 3),
    "㎟": 1,
    "㎠": 100,
    "㎡": 10**6,
    "㎢": 10**12,
}
_MONEY: dict[str, dict[str, Fraction | int]] = {
    "dollars": {**dict.fromkeys(("dollar", "美元"), 1), "cent": Fraction(1, 100)},
    "yuan": {**dict.fromkeys(("yuan", "元"), 1), "角": Fraction(1, 10)},
    "euros": dict.fromkeys(("euro", "欧元"), 1),
}
_MONEY_SIGNS = {
    **dict.fromkeys(("$", "usd", "us$"), "dollars"),
    **dict.fromkeys(("rmb", "cny", "¥", "￥"), "yuan"),
    **dict.fromkeys(("eur", "€"), "euros"),
    **dict.fromkeys(("gbp", "£"), "pounds"),
}
MULTIPLES = ("次", "倍", "对", "组")
_COUNTERS = (
    "个",
    "只",
    "条",
    "块",
    "张",
    "本",
    "件",
    "份",
    "题",
    "种",
    "名",
    "人",
    "辆",
    "支",
    "枚",
)
_OTHERS: dict[str, dict[str, Fraction | int]] = {
    "force": dict.fromkeys(("newton", "牛", "牛顿"), 1),
    "energy": {**dict.fromkeys(("joule", "焦", "焦耳"), 1), "kj": 1000},
    "power": {**dict.fromkeys(("watt", "瓦"), 1), "kw": 1000},
    "voltage": dict.fromkeys(("volt", "伏", "伏特"), 1),
    "current": dict.fromkeys(("amp", "ampere", "安", "安培"), 1),
    "resistance": dict.fromkeys(("ω", "Ω", "ohm", "欧", "欧姆"), 1),
    "pressure": {**dict.fromkeys(("pa", "pascal", "帕"), 1), "kpa": 1000},
    "frequency": dict.fromkeys(("hz", "hertz", "赫兹"), 1),
}
_TEMPERATURES = {
    "celsius": ("°c", "℃", "celsius", "celsiu", "degreecelsius", "degreescelsius", "摄氏度", "circc"),
    "fahrenheit": ("°f", "℉", "fahrenheit", "degreefahrenheit", "degreesfahrenheit", "华氏度", "circf"),
    "kelvin": ("kelvin", "°k", "开尔文"),
}
_SQUARE, _CUBE = ("square", "sq", "平方"), ("cubic", "cu", "立方")
_NOISE = str.maketrans({**dict.fromkeys(" \t\n\r{}^.\\-"), "²": "2", "³": "3", "/": "/"})


def _powers_of(name: str) -> list[tuple[str, int]]:
    """Every spelling of a length and of its square and cube."""
    spellings = [(name, 1)]
    for power, words, suffix in ((2, _SQUARE, "squared"), (3, _CUBE, "cubed")):
        spellings += [(word + name, power) for word in words]
        spellings += [
            (f"{name}{power}", power),
            (f"{name}s{power}", power),
            (name + suffix, power),
            (f"{name}s{suffix}", power),
        ]
    return spellings


def _kind_of_length(power: int) -> str:
    return ("length", "area", "volume")[power - 1]


def _sized(kind: str, sizes: Mapping[str, Fraction | int]) -> dict[str, Unit]:
    return {name: Unit(kind, rational(size)) for name, size in sizes.items()}


def _lengths() -> dict[str, Unit]:
    units = {}
    for name, size in _LENGTHS.items():
        for spelling, power in _powers_of(name):
            units[spelling] = Unit(_kind_of_length(power), rational(Fraction(size) ** power))
    for name in _GENERIC_LENGTHS:
        for spelling, power in _powers_of(name):
            units[spelling] = Unit("" if power == 1 else _kind_of_length(power))
    return units


def _speeds() -> dict[str, Unit]:
    named = {"mph": 63360 * _INCH / 3600, "kmh": Fraction(10**6, 3600), "kph": Fraction(10**6, 3600)}
    named |= {"knot": Fraction(1_852_000, 3600), "节": Fraction(1_852_000, 3600)}
    units = _sized("speed", named)
    for length, way in _LENGTHS.items():
        for time, duration in _TIMES.items():
            speed = Unit("speed", rational(Fraction(way) / duration))
            units |= {f"{name}{link}{time}": speed for name in (length, f"{length}s") for link in ("/", "per", "每")}
    return units


def _all_units() -> dict[str, Unit]:
    lengths = _lengths()
    units = {**lengths, **_speeds()}
    units |= {
        **_sized("time", _TIMES),
        **_sized("months", _MONTHS),
        **_sized("mass", _MASSES),
        **_sized("volume", _VOLUMES),
        **_sized("area", _AREAS),
    }
    units |= dict.fromkeys(("°", "º", "˚", "∘", "゜", "circ", "degree", "deg", "度", "textdegree"), DEGREE)
    units |= dict.fromkeys(("rad", "radian", "弧度"), Unit("angle", divide(rational(180), symbol(PI))))
    for kind, sizes in {**_MONEY, **_OTHERS}.items():
        units |= _sized(kind, sizes)
    units |= {sign: Unit(kind, ONE, is_free=False) for sign, kind in _MONEY_SIGNS.items()}
    units |= {name: Unit(name, is_free=False) for name in MULTIPLES}
    for scale, names in _TEMPERATURES.items():
        units |= dict.fromkeys(names, Unit(scale, is_free=False))
    units |= dict.fromkeys(_COUNTERS, NO_UNIT)
    units |= dict.fromkeys(("'", "′", "^′", "\\prime", "^\\prime", "^{\\prime}"), Unit("'", is_free=False))
    units |= dict.fromkeys(('"', "″", "''", "^{\\prime\\prime}"), Unit('"', is_free=False))
    units |= dict.fromkeys(("%", "percent", "percentage", "pct"), PERCENT)
    return units | {"": NO_UNIT}


_UNITS = _all_units()
_BRACKETS = re.compile(r"[\[(]([^()\[\]]*)[\])]")
_PART = re.compile(
    r"\s|[^\W\d_]\.?|\\?[%$]|\\[A-Za-z]|[°º˚∘゜℃℉㎟㎠㎡㎢㎜㎝㎞㎏㎖€£¥￥/·*]|(?<=[a-z])-(?=[a-z])"
    r"|(?:(?<=\S)|\^\s?)(?:[23²³]|\{\s?[23]\s?\})\^?|(?<!^)[23](?=[a-z])"
    r"|\^\s?(?:\\?(?:circ|degree)|[°º˚∘]|\{\s?(?:\\?(?:circ|degree)|[°º˚∘])\s?\})|\{(?=\s{0,4}[^\s}])|\}",
    re.IGNORECASE,
)
"""What a unit is written with; any other character, or one of these in another place, does not belong to a unit."""
_LARGE = re.compile(r"(?:[A-KM-Z]|M[a-z])(?![A-Za-z])")
"""Capitals whose lower case is a unit: ``8 M`` is not eight metres."""
_COMPOUND = re.compile(r"(.+?)(?:/|per|每|·|\*)(.+)")


@functools.lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """The unit that a text is, in brackets or not; ``NO_UNIT`` for the empty text, None for anything else.

    >>> read_unit("sq. cm") == read_unit("cm^{2}"), read_unit("apples")
    (True, None)
    """
    if len(text) > 48:
        return None
    bare = text.strip()
    if bare in _UNITS:
        return _UNITS[bare]
    if bare in ("^o", "^{o}"):
        return DEGREE
    inner = _BRACKETS.fullmatch(bare)
    bare = inner[1].strip() if inner else bare
    key = bare.translate(_NOISE).lower()
    if not _is_written_well(bare) or (bare and not key) or (inner and not bare):
        return None
    unit = _UNITS.get(key) or (_UNITS.get(key[:-1]) if key.endswith("s") else None)
    if unit is not None:
        return unit
    compound = _COMPOUND.fullmatch(key)
    if compound is None or not all(_is_unit(part) for part in compound.groups()):
        return None
    return Unit(f"{_name(compound[1])}/{_name(compound[2])}")


def _is_written_well(text: str) -> bool:
    """Whether every character has its place in a unit: nothing dangles, no brace stands alone, no power is empty."""
    if text.isalpha() or not text:
        return _LARGE.match(text) is None
    position = depth = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return False
        depth += (match[0] == "{") - (match[0] == "}")
        position = match.end()
        if depth < 0:
            return False
    return depth == 0 and _LARGE.match(text) is None


def _is_unit(key: str) -> bool:
    return bool(key) and (key in _UNITS or key.removesuffix("s") in _UNITS)


def _name(key: str) -> str:
    return key.removesuffix("s") or key


def meant_by(unit: Unit, beside: Unit) -> Unit:
    """The unit that a mark stands for beside another unit; any other unit is itself.

    >>> meant_by(Unit("'"), DEGREE).kind, meant_by(Unit("'"), NO_UNIT).kind
    ('angle', "'")
    """
    return next((each for each in MARKS.get(unit.kind, ()) if each.kind == beside.kind), unit)


def agree(left: Unit, right: Unit) -> bool:
    """Whether two units do not contradict each other."""
    return not left.kind or not right.kind or left.kind == right.kind
