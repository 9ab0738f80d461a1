"""What a mathematical answer can stand for, and when two of them are the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from gpg_vl.verifiers.maths import exact
from gpg_vl.verifiers.maths.decimals import Literal, is_finite_decimal, is_rounded_from
from gpg_vl.verifiers.maths.exact import UnreadableError, rational
from gpg_vl.verifiers.maths.expressions import Number
from gpg_vl.verifiers.maths.units import MARKS, NO_UNIT, PERCENT, agree, meant_by


@dataclass(frozen=True, slots=True)
class Items:
    """Several numbers: in brackets, or without any, one after the other or (``or``) in any order."""

    opening: str
    closing: str
    numbers: tuple[Number, ...]
    in_any_order: bool = False

    def __str__(self) -> str:
        texts = [str(number) for number in self.numbers]
        return self.opening + ", ".join(sorted(texts) if self.in_any_order else texts) + self.closing


@dataclass(frozen=True, slots=True)
class Letter:
    """A choice's letter, with the text of the choice where it stands there."""

    letter: str
    content: Number | Items | TwoReadings | None = None

    def __str__(self) -> str:
        return self.letter


@dataclass(frozen=True, slots=True)
class TwoReadings:
    """``30,150``: a number with a separator of thousands, or two numbers. As a gold answer it is two."""

    number: Number
    items: Items

    def __str__(self) -> str:
        return str(self.number)


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not a number, in upper case and without spaces."""

    text: str

    def __str__(self) -> str:
        return self.text


Value = Number | Items | Letter | TwoReadings | Text


def same_value(answer: Value, gold: Value) -> bool:
    """Whether an answer stands for the same value as a gold answer."""
    if isinstance(gold, TwoReadings):
        gold = gold.items
        answer = answer.items if isinstance(answer, TwoReadings) else answer
    if isinstance(answer, TwoReadings):
        return same_value(answer.number, gold) or same_value(answer.items, gold)
    if isinstance(answer, Letter) and not isinstance(gold, Letter):
        return answer.content is not None and same_value(answer.content, gold)
    if isinstance(answer, Letter) and isinstance(gold, Letter):
        return _same_letter(answer, gold)
    if isinstance(answer, Number) and isinstance(gold, Number):
        return same_number(answer, gold)
    if isinstance(answer, Items) and isinstance(gold, Items):
        return _same_items(answer, gold)
    return isinstance(answer, Text) and answer == gold


def _same_letter(answer: Letter, gold: Letter) -> bool:
    if answer.letter != gold.letter:
        return False
    return answer.content is None or gold.content is None or same_value(answer.content, gold.content)


def _same_items(answer: Items, gold: Items) -> bool:
    if _is_point_by_name(answer) and gold.opening == "(":
        answer = Items("(", ")", answer.numbers)
    elif _is_point_by_name(gold) and answer.opening == "(":
        gold = Items("(", ")", gold.numbers)
    if (answer.opening, answer.closing) != (gold.opening, gold.closing) or len(answer.numbers) != len(gold.numbers):
        return False
    left, right = list(answer.numbers), list(gold.numbers)
    if not answer.in_any_order and not gold.in_any_order and not _all_named(left, right):
        return all(map(same_number, left, right))
    for number in left:
        index = next((n for n, other in enumerate(right) if same_number(number, other)), None)
        if index is None:
            return False
        del right[index]
    return True


def _is_point_by_name(items: Items) -> bool:
    """``x = 2, y = -3``."""
    return not items.opening and [number.name for number in items.numbers] in (["x", "y"], ["x", "y", "z"])


def _all_named(*lists: list[Number]) -> bool:
    return all(number.name for numbers in lists for number in numbers)


def same_number(answer: Number, gold: Number) -> bool:
    """Equal in units that agree; or one is a long decimal of the other, which has no finite decimal."""
    if answer.unit.kind in MARKS or gold.unit.kind in MARKS:
        units = meant_by(answer.unit, gold.unit), meant_by(gold.unit, answer.unit)
        answer, gold = replace(answer, unit=units[0]), replace(gold, unit=units[1])
    if not answer.unit.is_free and not gold.unit.kind:
        return False
    if answer.name and gold.name and answer.name != gold.name:
        return False
    if not agree(answer.unit, gold.unit) and PERCENT not in (answer.unit, gold.unit):
        return False
    if PERCENT in (answer.unit, gold.unit) and answer.unit != gold.unit:
        return _same_share(answer, gold)
    if answer.unit != gold.unit and answer.unit.size is not None and gold.unit.size is not None:
        return _is_same_in_its_unit(answer, gold) or _is_same_in_its_unit(gold, answer)
    return answer.value == gold.value or _is_long_decimal(answer, gold)


def _is_same_in_its_unit(one: Number, other: Number) -> bool:
    """Whether a number in a unit of another size is the first, or the first a long decimal of it."""
    assert one.unit.size is not None and other.unit.size is not None
    value = exact.multiply(other.value, exact.divide(other.unit.size, one.unit.size))
    return one.value == value or (other.literal is None and _is_decimal_of(one, Number(value)))


def _same_share(answer: Number, gold: Number) -> bool:
    """``50%`` is 1/2, and 50 for a whole gold number from 2 on: then the question asks how many per cent.

    A gold answer in per cent takes the share and the number before its sign.
    """
    share, other = (answer, gold) if answer.unit == PERCENT else (gold, answer)
    if other.unit != NO_UNIT:
        return False
    fraction = Number(
        exact.multiply(share.value, rational(Fraction(1, 100))),
        literal=Literal(share.literal.value / 100, share.literal.places + 2) if share.literal else None,
    )
    as_share = fraction.value == other.value or _is_long_decimal(fraction, other)
    if gold.unit == PERCENT:
        return as_share or share.value == other.value
    whole = gold.value.fraction
    asks_for_percent = whole is not None and whole.denominator == 1 and abs(whole) >= 2
    return share.value == gold.value if asks_for_percent else as_share


def _is_long_decimal(answer: Number, gold: Number) -> bool:
    for decimal, number in ((answer, gold), (gold, answer)):
        if decimal.literal is not None and number.literal is None:
            return _is_decimal_of(decimal, number)
    return False


def _is_decimal_of(decimal: Number, number: Number) -> bool:
    if is_finite_decimal(number.value) or decimal.literal is None:
        return False
    try:
        return is_rounded_from(decimal.literal, number.value)
    except UnreadableError:
        return False
