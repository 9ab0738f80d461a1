"""DetectedBox: no way of answering is better in expectation than saying every box with its own chance of a hit.

Worlds: each of 1 to 8 gold boxes stands where the answer has it with a chance that the answer knows, and else in
another place. The expectation is summed over all of the worlds, through the task's own score.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from gpg_vl.records import Box, ImageView, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.verifiers.box_text import DetectedBox

TASK = TASKS["detection"]
VIEW = ImageView(800, 400, 800, 400, "resized_pixels")
WHOLE: Box = (0, 0, 800, 400)
CHANCES = (0.9, 0.3, 0.6, 0.2, 0.75, 0.5, 0.95, 0.4)
Answer = list[DetectedBox]


def place(number: int, miss: int = 0) -> Box:
    """The box of a number where it is expected, or one of the two other places where it may stand."""
    x, y = 100 * number, 130 * miss
    return (x + 10, y + 10, x + 80, y + 110)


def near(number: int) -> Box:
    """A place that overlaps the expected one by less than half."""
    x1, y1, x2, y2 = place(number)
    return (x1, y1 + 45, x2, y2 + 45)


def expect(answer: Answer, num_gold: int, other: Callable[[int], Box]) -> float:
    """The expected reward over all of the worlds."""
    total = 0.0
    for hits in itertools.product((True, False), repeat=num_gold):
        chance = 1.0
        for number, is_hit in enumerate(hits):
            chance *= CHANCES[number] if is_hit else 1 - CHANCES[number]
        gold = [place(number) if is_hit else other(number) for number, is_hit in enumerate(hits)]
        total += chance * reward(answer, gold)
    return total


def reward(answer: Sequence[DetectedBox], gold: Sequence[Box]) -> float:
    sample = Sample("a", "detection", ("p.png",), "Where?", str([list(box) for box in gold]))
    parts = TASK.score(list(answer), sample, [VIEW])
    return sum(TASK.weights[name] * value for name, value in parts.items())


def honest(num_gold: int) -> Answer:
    return [DetectedBox(place(number), CHANCES[number]) for number in range(num_gold)]


def said(answer: Answer, confidence: Callable[[float], float]) -> Answer:
    return [DetectedBox(each.box, confidence(each.confidence)) for each in answer]


def shifted(box: Box, by: float) -> Box:
    return (box[0] + by, box[1], box[2] + by, box[3])


def grid(columns: int, rows: int) -> list[Box]:
    width, height = 800 / columns, 400 / rows
    return [(x * width, y * height, (x + 1) * width, (y + 1) * height) for x in range(columns) for y in range(rows)]


def strategies(num_gold: int) -> Iterator[tuple[str, Answer]]:
    truth = honest(num_gold)
    best = max(truth, key=lambda each: each.confidence)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield f"every confidence {share}", said(truth, lambda _, share=share: share)
    for factor in (0.5, 0.9, 1.1):
        yield f"confidence times {factor}", said(truth, lambda c, factor=factor: min(1.0, c * factor))
    yield "confidences turned round", said(truth, lambda c: 1 - c)
    for number, each in enumerate(truth):
        lie = [DetectedBox(each.box, 1.0) if n == number else other for n, other in enumerate(truth)]
        yield f"certain of box {number}", lie
        yield f"without box {number}", [other for other in truth if other is not each]
    for confidence in (0.0, 0.01, 0.3, 1.0):
        filler = DetectedBox(WHOLE, confidence)
        yield f"a filler at {confidence}", [*truth, filler]
        yield f"fillers for all but the best at {confidence}", [best, *[filler] * (num_gold - 1)]
        yield f"copies of the best at {confidence}", [best, *[DetectedBox(best.box, confidence)] * (num_gold - 1)]
        yield f"one more copy at {confidence}", [*truth, DetectedBox(best.box, confidence)]
        near_copies = [DetectedBox(shifted(best.box, 1 + n), confidence) for n in range(num_gold - 1)]
        yield f"copies moved a little at {confidence}", [best, *near_copies]
        for columns, rows in ((2, 1), (2, 2), (4, 2)):
            cells = [DetectedBox(box, confidence) for box in grid(columns, rows)]
            yield f"a grid of {columns} x {rows} at {confidence}", cells[:num_gold]
            yield f"the truth and a grid of {columns} x {rows} at {confidence}", [*truth, *cells]
            yield f"the best and a grid of {columns} x {rows} at {confidence}", [best, *cells[: num_gold - 1]]


def combinations(num_gold: int) -> Iterator[Answer]:
    """Each expected box left out or said with one of four confidences, and up to two boxes more of any kind."""
    truth = honest(num_gold)
    best = max(truth, key=lambda each: each.confidence).box
    more = [WHOLE, best, shifted(best, 2), grid(4, 2)[0]]
    extras = [DetectedBox(box, confidence) for box in more for confidence in (0.0, 0.3, 1.0)]
    added = [(), *((one,) for one in extras), *itertools.combinations(extras, 2)]
    ways = [[(), *((DetectedBox(each.box, c),) for c in (0.0, each.confidence, 0.5, 1.0))] for each in truth]
    for chosen in itertools.product(*ways, added):
        yield [detection for part in chosen for detection in part]


def some_combinations(num_gold: int, num: int) -> Iterator[Answer]:
    """A few of them, drawn by a fixed seed: for many boxes there are too many for all."""
    draw = random.Random(num_gold)
    truth = honest(num_gold)
    for _ in range(num):
        said_boxes = [
            DetectedBox(each.box, draw.choice((0.0, each.confidence, each.confidence, 0.5, 1.0)))
            for each in truth
            if draw.random() < 0.8
        ]
        sources = [WHOLE, *grid(4, 2), *(shifted(each.box, by) for each in truth for by in (0.0, 1.0, 5.0))]
        yield said_boxes + [
            DetectedBox(draw.choice(sources), draw.choice((0.0, 0.3, 1.0))) for _ in range(draw.randrange(4))
        ]


@pytest.mark.parametrize("other", [lambda number: place(number, 2), near], ids=["far", "near"])
@pytest.mark.parametrize("num_gold", range(1, 9))
def test_no_combination_is_better_than_honesty(num_gold: int, other: Callable[[int], Box]) -> None:
    most = expect(honest(num_gold), num_gold, other)
    answers = list(combinations(num_gold) if num_gold < 3 else some_combinations(num_gold, 24))
    assert len(answers) >= 24
    for answer in answers:
        if answer:
            assert expect(answer, num_gold, other) <= most + 1e-9, answer


@pytest.mark.parametrize("other", [lambda number: place(number, 2), near], ids=["far", "near"])
@pytest.mark.parametrize("num_gold", range(1, 9))
def test_nothing_is_better_than_honesty(num_gold: int, other: Callable[[int], Box]) -> None:
    most = expect(honest(num_gold), num_gold, other)
    seen = set()
    for name, answer in strategies(num_gold):
        key = tuple(answer)
        if answer and key not in seen:
            seen.add(key)
            assert expect(answer, num_gold, other) <= most + 1e-9, name


@pytest.mark.parametrize("num_gold", range(1, 9))
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_the_best_confidence_is_the_chance(num_gold: int, chance: float) -> None:
    """Of one box among others, by the part itself: a hit and a miss, weighed by the chance."""
    others = [DetectedBox(place(number), 1.0) for number in range(1, num_gold)]
    golds = [place(number) for number in range(num_gold)]
    missed = [place(0, 2), *golds[1:]]

    def part(confidence: float) -> float:
        answer = [DetectedBox(place(0), confidence), *others]
        sample = [
            Sample("a", "detection", ("p.png",), "", str([list(box) for box in gold])) for gold in (golds, missed)
        ]
        hit, miss = (TASK.score(answer, each, [VIEW])["confidence"] for each in sample)
        return chance * hit + (1 - chance) * miss

    steps = [step / 20 for step in range(21)]
    assert max(steps, key=part) == chance
    assert part(chance) - part(0.4) == pytest.approx((chance - 0.4) ** 2 / num_gold)


def test_a_repeated_box_earns_nothing_by_a_second_gold_box() -> None:
    golds: list[Box] = [(100, 100, 300, 300), (100, 100, 300, 280), (100, 110, 300, 300)]
    one = reward([DetectedBox(golds[0], 1.0)], golds)
    for copies in (1, 2):
        for confidence in (0.0, 0.5, 1.0):
            copied = [DetectedBox(golds[0], 1.0), *[DetectedBox(golds[0], confidence)] * copies]
            assert reward(copied, golds) <= one
    assert reward([DetectedBox(box, 1.0) for box in golds], golds) == pytest.approx(1.2)


def test_a_box_of_several_at_no_confidence_adds_nothing_unless_it_hits() -> None:
    golds = [place(number) for number in range(3)]
    found = DetectedBox(place(0), 1.0)
    assert reward([found, DetectedBox(WHOLE, 0.0), DetectedBox(WHOLE, 0.0)], golds) == reward([found], golds)
    assert reward([found, DetectedBox(place(1), 0.0)], golds) > reward([found], golds)


def test_a_near_copy_adds_nothing() -> None:
    golds: list[Box] = [(100, 100, 300, 300), (100, 100, 300, 280)]
    one = [DetectedBox(golds[0], 1.0)]
    for by in (0.0, 1.0, -1.0, 3.0):
        near_copy = DetectedBox((100, 100, 300, 300 + by), 0.0)
        assert reward([*one, near_copy], golds) == reward(one, golds)


def test_a_hit_goes_before_any_sum_of_overlaps_that_are_none() -> None:
    golds: list[Box] = [(0, 0, 100, 55), (0, 60, 100, 100)]
    answer = [DetectedBox((0, 0, 100, 100), 1.0), DetectedBox((0, 0, 100, 22), 0.0)]
    sample = Sample("a", "detection", ("p.png",), "Where?", str([list(box) for box in golds]))
    assert TASK.score(answer, sample, [VIEW]) == {"iou": pytest.approx(0.55 / 2), "confidence": pytest.approx(0.5)}
