"""Classification with lists of classes: which list reads an answer, and that a remembered row is the right one."""

from __future__ import annotations

import itertools
import json

import pytest

from gpg_vl.records import Sample
from gpg_vl.tasks.base import score_completion
from gpg_vl.tasks.classification import Classification

FLOWERS = ["rose", "lenten rose", "tulip"]
AIRCRAFT = ["737-800", "737-900", "A320"]


def correct(task: Classification, sample: Sample, answer: str) -> float:
    return score_completion(task, sample, f"<think></think><answer>{answer}</answer>", []).parts["correct"]


def row(answer: str, **meta: object) -> Sample:
    return Sample("row", "classification", ("p.png",), "What is it?", answer, meta)


def test_rows_in_any_order_are_scored_as_alone() -> None:
    """The task remembers a row: another list, another gold answer, or no list must not be taken for it."""
    rows = [
        row("rose", options=FLOWERS),
        row("lenten rose", options=FLOWERS),
        row("rose", options=[*FLOWERS, "the rose"]),
        row("rose"),
        row("737-800", options=AIRCRAFT),
        row("737-800"),
        row("rose", classes=json.dumps(FLOWERS)),
        row("tulip", choices=tuple(FLOWERS)),
        row("sunflower", options=FLOWERS),
    ]
    answers = [
        "rose",
        "The flower in the picture is a lenten rose",
        "Boeing 737-800",
        "a tulip",
        "sunflower",
        "the rose",
    ]
    alone = {(n, answer): correct(Classification(), each, answer) for n, each in enumerate(rows) for answer in answers}
    assert 0 < sum(alone.values()) < len(alone)
    shared = Classification()
    for first, second in itertools.product(range(len(rows)), repeat=2):
        for answer in answers:
            assert correct(shared, rows[first], answer) == alone[first, answer]
            assert correct(shared, rows[second], answer) == alone[second, answer]


@pytest.mark.parametrize(
    ("answer", "with_list", "without"), [("Boeing 737-800", 1, 0), ("737-800", 1, 1), ("737", 0, 0)]
)
def test_a_list_tells_more_than_words(answer: str, with_list: float, without: float) -> None:
    assert correct(Classification(), row("737-800", options=AIRCRAFT), answer) == with_list
    assert correct(Classification(), row("737-800"), answer) == without


def test_classes_of_a_subclass() -> None:
    class Flowers(Classification):
        classes = tuple(FLOWERS)

    assert correct(Flowers(), row("rose"), "It is a rose flower") == 1
    assert correct(Flowers(), row("rose"), "lenten rose") == 0
    assert correct(Flowers(), row("737-800", options=AIRCRAFT), "Boeing 737-800") == 1, "the row's list goes before"
