"""The value a figure asks for: an angle, a length, an area, exact, with or without its unit; or a choice's letter."""

from __future__ import annotations

from collections.abc import Sequence

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks.base import FORMAT_REQUEST, Task
from gpg_vl.tasks.legacy.numbers import GEOMETRY
from gpg_vl.verifiers.maths.same_values import Letter, Text, Value, same_value
from gpg_vl.verifiers.maths.values import read_value
from gpg_vl.verifiers.options import LETTERS, find_options


class Geometry(Task):
    name = "geometry"
    legacy = GEOMETRY

    def ask(self, sample: Sample, views: Sequence[ImageView]) -> str:
        return f"{sample.question}\n{FORMAT_REQUEST} The final answer is an exact number, or the letter of a choice."

    def read(self, answer: str, sample: Sample, views: Sequence[ImageView]) -> Value | None:
        return read_value(answer)

    def score(self, answer: Value, sample: Sample, views: Sequence[ImageView]) -> dict[str, float]:
        gold = read_value(sample.answer)
        if gold is None:
            return {"correct": 0.0}
        if isinstance(answer, Letter) or isinstance(gold, Letter):
            return {"correct": float(_is_same_choice(answer, gold, find_options(sample.question)))}
        return {"correct": float(same_value(answer, gold))}

    def check(self, sample: Sample) -> None:
        if read_value(sample.answer) is None:
            raise ValueError(f"the answer {sample.answer[:40]!r} is not a value; write one such as 145°, 8√3 or 3/2")


def _is_same_choice(answer: Value, gold: Value, options: Sequence[str]) -> bool:
    """By letter and by value, where the question letters its options: a letter with another option's text is wrong."""
    values = [read_value(option) for option in options]
    if isinstance(answer, Letter) and isinstance(gold, Letter):
        option = _option_of(answer, values)
        contradicts = option is not None and answer.content is not None and not same_value(answer.content, option)
        return same_value(answer, gold) and not contradicts
    if isinstance(gold, Letter):
        option = _option_of(gold, values)
        others = [value for value in values if value is not None and value is not option]
        is_alone = not any(same_value(answer, other) for other in others)
        return option is not None and not isinstance(option, Text) and is_alone and same_value(answer, option)
    option = _option_of(answer, values) if isinstance(answer, Letter) else None
    if option is None:
        return same_value(answer, gold)
    return same_value(option, gold) and (not _has_content(answer) or same_value(answer, option))


def _option_of(letter: Letter, values: Sequence[Value | None]) -> Value | None:
    """The value of the option with that letter, where the question has one."""
    index = LETTERS.index(letter.letter)
    return values[index] if index < len(values) else None


def _has_content(answer: Value) -> bool:
    return isinstance(answer, Letter) and answer.content is not None
