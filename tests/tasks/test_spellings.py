"""Any two spellings of one value are right against each other, of two values wrong, and a second value makes it wrong.

Each task has a grammar: forms of a value, and frames around a form.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.box_spellings import DETECTION, GROUNDING
from tests.support.spellings import CHOICE, CLASSIFICATION, COUNTING, GEOMETRY, Grammar

GRAMMARS = [COUNTING, GEOMETRY, CHOICE, CLASSIFICATION, GROUNDING, DETECTION]

each_grammar = pytest.mark.parametrize("grammar", GRAMMARS, ids=lambda grammar: grammar.task)


@each_grammar
def test_every_grammar_has_forty_productions(grammar: Grammar) -> None:
    assert grammar.num_productions() >= 40


@each_grammar
def test_every_form_and_every_frame_is_read(grammar: Grammar) -> None:
    value = {"counting": 5, "geometry": 7, "choice": 1, "classification": "rose"}.get(
        grammar.task, (100, 120, 400, 500)
    )
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
    value, other = data.draw(st.lists(grammar.values, min_size=2, max_size=2, unique_by=repr))
    one, two = data.draw(st.sampled_from(grammar.forms)), data.draw(st.sampled_from(grammar.forms))
    answer = data.draw(st.sampled_from(grammar.frames)).format(one(value))
    assert grammar.correct(answer, two(other)) < 1, (answer, two(other))


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
