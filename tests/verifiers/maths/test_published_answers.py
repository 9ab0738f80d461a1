"""The published answers of GEOQA's test set against each other, by a plain computation of their values."""

from __future__ import annotations

import json
import math
import re

import pytest

from gpg_vl.verifiers.maths.same_values import Value, same_value
from gpg_vl.verifiers.maths.values import read_value
from tests.support.shared_data import shared_file

# what the answers are measured in: kind and size
UNITS = {
    "°": ("angle", 1.0),
    "mm": ("length", 1.0),
    "cm": ("length", 10.0),
    "厘米": ("length", 10.0),
    "m": ("length", 1e3),
    "米": ("length", 1e3),
    "海里": ("length", 1.852e6),
    "cm²": ("area", 1e2),
    "cm^{2}": ("area", 1e2),
    "cm^2^": ("area", 1e2),
    "m^{2}": ("area", 1e6),
    "平方米": ("area", 1e6),
    "小时": ("time", 3600.0),
    "秒": ("time", 1.0),
}
SAME_UNIT = [
    *[("°", other) for other in (" degrees", "^\\circ", "^{\\circ}", "度", " deg", "º", "")],
    *[("cm", other) for other in (" cm", "厘米", " centimeters", "\\text{cm}", " \\text{ cm}", "\\mathrm{cm}", "")],
    *[("米", other) for other in ("m", " meters", "")],
    *[("海里", other) for other in (" nautical miles", "")],
]
SAME_NOTATION = [
    *[("^{2}", "²"), ("^{2}", "^2"), ("π", "\\pi "), ("π", " \\pi "), ("√{", "\\sqrt{")],
    *[("\\frac", "\\dfrac"), ("\\frac", "\\tfrac")],
]
WRAPPERS = ["{}", " {} ", "{}.", "{}。", "${}$", "\\({}\\)", "\\boxed{{{}}}", "$\\boxed{{{}}}$", "\\text{{{}}}", "{}\n"]


def published_answers() -> list[str]:
    lines = shared_file("geoqa_test_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 754
    return sorted({json.loads(line)["ground_truth"] for line in lines})


def unit_of(answer: str) -> str:
    return max((unit for unit in UNITS if answer.endswith(unit)), key=len, default="")


def notations(answer: str) -> set[str]:
    unit = unit_of(answer)
    number = answer.removesuffix(unit)
    return {
        *(number + other for one, other in SAME_UNIT if one == unit),
        *(answer.replace(*change) for change in SAME_NOTATION),
    }


def measure(answer: str) -> tuple[float, str, float]:
    """Value, kind of unit and its size, in floats and by nothing of the kit's."""
    unit = unit_of(answer)
    text = answer.removesuffix(unit)
    text = re.sub(r"√\{(\d+)\}", r"(\1**0.5)", text)
    text = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"((\1)/(\2))", text).replace("π", "(pi)")
    text = re.sub(r"(?<=[\d)])\(", "*(", text)
    assert re.fullmatch(r"[-+*/().\d]*", text.replace("pi", "")), answer
    return eval(text, {"pi": math.pi}), *UNITS.get(unit, ("", 1.0))


def is_same(answer: str, gold: str) -> bool:
    (left, kind, size), (right, other_kind, other_size) = measure(answer), measure(gold)
    if not kind or not other_kind:
        return math.isclose(left, right, rel_tol=1e-12)
    return kind == other_kind and math.isclose(left * size, right * other_size, rel_tol=1e-12)


def read(text: str) -> Value:
    value = read_value(text)
    assert value is not None, text
    return value


def test_every_two_published_answers_are_told_apart() -> None:
    answers = published_answers()
    values = {answer: read(answer) for answer in answers}
    pairs = [(answer, gold) for answer in answers for gold in answers]
    assert len(pairs) > 50_000
    wrong = [pair for pair in pairs if same_value(values[pair[0]], values[pair[1]]) != is_same(*pair)]
    assert wrong == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_notation_of_a_published_answer_is_right(wrapper: str) -> None:
    """Also those that the first release took: it read each of these."""
    for gold in published_answers():
        lost = [text for text in notations(gold) if not same_value(read(wrapper.format(text)), read(gold))]
        assert lost == [], gold


def test_a_published_answer_with_anything_beside_it_is_wrong() -> None:
    for gold in published_answers():
        for template in ("-{0}", "2{0}", "{0}{0}", "{0} or 7919", "{0}, {0}1", "not {0}", "2*{0}", "{0}/7", "{0} + 1"):
            text = template.format(gold)
            value = read_value(text)
            assert value is None or not same_value(value, read(gold)), text
