"""Boxes as location tokens, ``<loc0000>`` to ``<loc1023>``, and as lists of numbers: PaliGemma's way of writing.

A box is four tokens, and a name may follow it: ``<loc0102><loc0051><loc0819><loc0921> cat ; <loc0000>...``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LAST_LOCATION = 1023

_BOX = re.compile(r"<loc([0-9]{4})>" * 4)
_NAMED = re.compile(_BOX.pattern + r"([^<>;\[\]{}]{0,80})")


def numbers_to_locations(numbers: Sequence[int]) -> str:
    """
    >>> numbers_to_locations([102, 51, 819, 921])
    '<loc0102><loc0051><loc0819><loc0921>'
    """
    return "".join(f"<loc{number:04}>" for number in numbers)


def locations_to_numbers(text: str) -> str:
    """The text with each four location tokens as a list, after the name that follows them in a list of named boxes.

    >>> locations_to_numbers("<loc0102><loc0051><loc0819><loc0921> cat ; <loc0001><loc0002><loc0003><loc0004> dog")
    'cat [102, 51, 819, 921], dog [1, 2, 3, 4]'
    >>> locations_to_numbers("[<loc0102><loc0051><loc0819><loc0921>]")
    '[[102, 51, 819, 921]]'
    """
    named = [_NAMED.fullmatch(piece.strip()) for piece in text.split(";")]
    found = [match for match in named if match is not None]
    if len(found) == len(named):
        return ", ".join(f"{match[5].strip()} {_to_list(match)}".strip() for match in found)
    return _BOX.sub(_to_list, text)


def _to_list(match: re.Match[str]) -> str:
    return str([int(number) for number in match.groups()[:4]])
