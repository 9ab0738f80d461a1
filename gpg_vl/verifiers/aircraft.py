"""Makers and variants of aircraft: what may stand before and after the name of an FGVC-Aircraft class.

Names are words in lower case: letters and numbers apart.
"""

from __future__ import annotations

import re

_MAKERS_TEXT = """
airbus antonov atr avro bae beech beechcraft boeing bombardier british aerospace canadair cessna cirrus convair
dassault de havilland canada dehavilland dornier douglas embraer eurofighter fairchild fokker general dynamics
grumman gulfstream hawker siddeley ilyushin lockheed martin mcdonnell northrop panavia pilatus piper raytheon robin
saab sukhoi supermarine swearingen tupolev yakovlev b
"""
_MAKERS = frozenset(_MAKERS_TEXT.split())
"""Makers of aircraft: most classes of FGVC-Aircraft leave them out, and models write them."""
_MAKERS_OF_TEXT = """
707 727 737 747 757 767 777 787 717: boeing b
a300 a310 a318 a319 a320 a321 a330 a340 a350 a380: airbus
md dc: mcdonnell douglas boeing
crj: bombardier canadair
dhc: de havilland canada dehavilland bombardier
dh: de havilland dehavilland
e170 e190 e195 emb erj legacy: embraer
146 125: british aerospace bae hawker siddeley
1900: beech beechcraft hawker raytheon
328: dornier fairchild
340: saab fairchild
c130 l1011: lockheed martin
c47: douglas
f16: general dynamics lockheed martin
fa18: mcdonnell douglas boeing
an: antonov
il: ilyushin
tu: tupolev
yak: yakovlev
pa: piper
falcon: dassault
spitfire: supermarine
tornado: panavia
typhoon: eurofighter
hawk: british aerospace bae hawker siddeley
metroliner: fairchild swearingen
sr: cirrus
dr: robin
model: beech beechcraft hawker raytheon
challenger global: bombardier canadair
"""
_MAKERS_OF = {
    family: frozenset(makers.split())
    for families, makers in (line.split(":") for line in _MAKERS_OF_TEXT.strip().splitlines())
    for family in families.split()
}
"""By the beginning of the name."""
_VARIANT = re.compile(
    r"(?:a3[0-9]0|a31[89]|a321)-(?:[1-9][0-9]{2}|1000)|717-200|dc[0-9]{1,2}-[1-8][0-9]|(?:42|72)-[2-6][0-9]0"
    r"|dhc6-[1-4]00|dr400-[0-9]{3}|l1011-(?:1|50|100|150|200|250|500)|pa28-[0-9]{3}|md90-30|e1[79][05]-[12]00"
    r"|125-[1-9]00"
)
"""Numbers that may follow a name of one number: variants that were built."""


def was_built(name: tuple[str, ...], variant: str) -> bool:
    """Whether a number after the name is one of its variants.

    >>> was_built(("a", "320"), "200"), was_built(("md", "11"), "900")
    (True, False)
    """
    return _VARIANT.fullmatch(f"{''.join(without_maker(name))}-{variant}") is not None


def may_have_made(words: tuple[str, ...], name: tuple[str, ...], has_number: bool) -> bool:
    """Whether the words before a name may be its maker's, and are not another maker's.

    >>> [may_have_made((maker,), ("737", "800"), has_number=True) for maker in ("boeing", "airbus")]
    [True, False]
    """
    if any(word in _MAKERS_OF for word in words):  # the beginning of another name
        return False
    if _MAKERS.isdisjoint(words):
        return not words or (has_number and all(word.isalpha() and len(word) > 1 for word in words))
    makers = _makers_of(name)
    if makers and any(word in _MAKERS and word not in makers for word in words):
        return False
    return all(word in _MAKERS or (has_number and word.isalpha()) for word in words)


def _makers_of(name: tuple[str, ...]) -> frozenset[str]:
    """Who made what has the name, as far as that is known: the makers of its family, or the one that it begins with."""
    bare = "".join(without_maker(name))
    own = frozenset(name[: len(name) - len(without_maker(name))])
    return next((makers for family, makers in _MAKERS_OF.items() if bare.startswith(family)), own)


def without_maker(name: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a name without the makers that it begins with."""
    first = next((n for n, word in enumerate(name) if word not in _MAKERS), len(name))
    return name[first:]
