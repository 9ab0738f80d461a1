"""Any two spellings of one value are right against each other, of two values wrong, and a second value makes it wrong.

Each task has a grammar, geometry one for each kind of value: forms of a value, and frames around a form.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpg_vl.verifiers.boxes import iou
from tests.support.box_spellings import DETECTION, GROUNDING
from tests.support.spellings import CHOICE, CLASSIFICATION, COUNTING, GEOMETRY, Grammar
from tests.support.value_spellings import ANGLES, FRACTIONS, PIS, POINTS, SURDS

BOX = (100, 120, 400, 500)
GRAMMARS: dict[str, tuple[Grammar, list[Any]]] = {
    "counting": (COUNTING, [0, 5, 19, 1005]),
    "lengths": (GEOMETRY, [7]),
    "angles": (ANGLES, [30]),
    "fractions": (FRACTIONS, [Fraction(3, 2), Fraction(2, 7)]),
    "roots": (SURDS, [(5, 2)]),
    "multiples of pi": (PIS, [4]),
    "points": (POINTS, [(3, -2)]),
    "choice": (CHOICE, [0, 1, 2, 3, 4]),
    "classification": (CLASSIFICATION, ["rose", "2012 Audi A5 Coupe"]),
    "grounding": (GROUNDING, [BOX]),
    "detection": (DETECTION, [BOX]),
}

each_grammar = pytest.mark.parametrize("grammar", [each for each, _ in GRAMMARS.values()], ids=GRAMMARS.keys())


@each_grammar
def test_every_grammar_has_forty_productions(grammar: Grammar) -> None:
    assert len(set(grammar.forms)) + len(set(grammar.frames)) >= 40
    assert len(grammar.forms) >= 13


@pytest.mark.parametrize(("grammar", "examples"), GRAMMARS.values(), ids=GRAMMARS.keys())
def test_every_form_and_every_frame_is_read(grammar: Grammar, examples: list[Any]) -> None:
    for value in examples:
        plain = grammar.forms[0](value)
        for form in grammar.forms:
            assert grammar.correct(form(value), plain) == 1, form(value)
        for frame in grammar.frames:
            assert grammar.correct(frame.format(plain), plain) == 1, frame.format(plain)


@each_grammar
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_two_spellings_of_one_value_are_right(grammar: Grammar, data: st.DataObject) -> None:
    value = data.draw(grammar.values)
    one, two = data.draw(st.sampled_from(grammar.forms)), data.draw(st.sampled_from(grammar.forms))
    answer = data.draw(st.sampled_from(grammar.frames)).format(one(value))
    assert grammar.correct(answer, two(value)) == 1, (answer, two(value))


@each_grammar
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_two_values_are_wrong(grammar: Grammar, data: st.DataObject) -> None:
    """A box that is another one earns its overlap, and any other value nothing."""
    value, other = data.draw(st.lists(grammar.values, min_size=2, max_size=2, unique_by=repr))
    one, two = data.draw(st.sampled_from(grammar.forms)), data.draw(st.sampled_from(grammar.forms))
    answer = data.draw(st.sampled_from(grammar.frames)).format(one(value))
    earned = iou(value, other) if grammar.task in ("grounding", "detection") else 0.0
    assert grammar.correct(answer, two(other)) == pytest.approx(earned, abs=1e-9), (answer, two(other))


@each_grammar
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_a_second_value_makes_it_wrong(grammar: Grammar, data: st.DataObject) -> None:
    value, other = data.draw(st.lists(grammar.values, min_size=2, max_size=2, unique_by=repr))
    one, two = data.draw(st.sampled_from(grammar.forms)), data.draw(st.sampled_from(grammar.forms))
    assume("+" not in one(value))  # 2+0 (3) is one value
    both = data.draw(st.sampled_from(grammar.seconds)).format(one(value), two(other))
    answer = data.draw(st.sampled_from(grammar.frames)).format(both)
    assert grammar.correct(answer, grammar.forms[0](value)) == 0, answer
