"""Compares the names of classes: exact after normalisation, so that ``rose`` is no ``pink primrose``."""

from __future__ import annotations

MAX_CHARS = 256

_SEPARATORS = str.maketrans(dict.fromkeys(" \t\r\n_-‐‑–—/.,'’`\""))


def normalise_name(text: str) -> str | None:
    """The name without case, spaces, underscores, hyphens, slashes, periods, commas and quotes; None for no name.

    None also for more than 256 characters. What else stands in the text stays, so that a list of names is no name.

    >>> normalise_name("American_Bulldog."), normalise_name("Boeing 737-200"), normalise_name(" . ")
    ('americanbulldog', 'boeing737200', None)
    """
    if len(text) > MAX_CHARS:
        return None
    return text.translate(_SEPARATORS).casefold() or None


def same_name(left: str, right: str) -> bool:
    """Whether two names are the same after normalisation; nothing equals an empty name."""
    name = normalise_name(left)
    return name is not None and name == normalise_name(right)
