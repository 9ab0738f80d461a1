"""The fields of a JSON object from elsewhere, each checked for its type and its bounds before anything uses it."""

from __future__ import annotations

import json
import re
from typing import Any


class BadMessage(ValueError):
    """A message is not what the protocol says; one line."""


class Fields:
    def __init__(self, plain: Any, where: str = ""):
        """
        Args:
            where: what messages call the object

        Raises:
            BadMessage: it is not an object
        """
        if not isinstance(plain, dict):
            raise BadMessage(f"{where or 'the message'} is not an object")
        self._plain: dict[str, Any] = plain
        self.where = where

    @classmethod
    def of_message(cls, body: bytes, protocol: int) -> Fields:
        """
        Raises:
            BadMessage: it is no JSON object of this protocol
        """
        try:
            plain = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadMessage("the message is not JSON") from error
        fields = cls(plain)
        if (found := fields._value("protocol")) != protocol:
            raise BadMessage(f"the message has protocol {str(found)[:20]!r} instead of {protocol}; use one version")
        return fields

    def _value(self, name: str) -> Any:
        if name not in self._plain:
            raise BadMessage(f"{self._path(name)} is missing")
        return self._plain[name]

    def _path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def _refuse(self, name: str, wanted: str) -> BadMessage:
        return BadMessage(f"{self._path(name)} is not {wanted}")

    def inner(self, name: str) -> Fields:
        return Fields(self._value(name), self._path(name))

    def text(self, name: str) -> str:
        value = self._value(name)
        if not isinstance(value, str):
            raise self._refuse(name, "a text")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        """A text that is all of the pattern."""
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise self._refuse(name, f"of the form {pattern.pattern}")
        return value

    def items(self, name: str, most: int) -> list[Any]:
        value = self._value(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._refuse(name, f"a list of at most {most}")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        value: int = self._value(name)
        if not _is_whole(value, low, high):
            raise self._refuse(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        value: float = self._value(name)
        if not _is_number(value, low, high):
            raise self._refuse(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def number_if_there(self, name: str, low: float, high: float) -> float | None:
        """None where it is missing: an older version does not send it."""
        return self.number(name, low, high) if name in self._plain else None

    def wholes(self, name: str, low: int, high: int, most: int, least: int = 0) -> tuple[int, ...]:
        values = self.items(name, most)
        if len(values) < least or not all(_is_whole(value, low, high) for value in values):
            raise self._refuse(name, f"{least} or more whole numbers from {low} to {high}")
        return tuple(values)

    def numbers(self, name: str, low: float, high: float, most: int, least: int = 0) -> tuple[float, ...]:
        values = self.items(name, most)
        if len(values) < least or not all(_is_number(value, low, high) for value in values):
            raise self._refuse(name, f"{least} or more numbers from {low:g} to {high:g}")
        return tuple(map(float, values))


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN is in no range
