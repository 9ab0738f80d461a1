"""Scenes of the levels: the answer is what the picture, or the things that were painted, say."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from data_tools.generate import draw_samples, main
from data_tools.levels import LEVELLED_DRAWERS, LEVELS, Knobs, counting, geometry, grounding, relations
from data_tools.levels.things import Thing, paint
from data_tools.scenes import Scene
from gpg_vl.data.images import open_image
from gpg_vl.records import ImageView
from gpg_vl.tasks import load_task
from gpg_vl.tasks.base import gold_completion, score_completion
from tests.support.clock import takes_less_than
from tests.support.messages import naming

MODULES = {"counting": counting, "grounding": grounding, "choice": relations}
EVERY = [(task, level) for task in LEVELLED_DRAWERS for level in LEVELS]


def draw_with_things(
    monkeypatch: pytest.MonkeyPatch, task: str, level: int, num: int
) -> list[tuple[Scene, Sequence[Thing]]]:
    painted: list[Sequence[Thing]] = []

    def paint_and_keep(rng: Random, things: Sequence[Thing], size: int) -> Any:
        painted.append(things)
        return paint(rng, things, size)

    monkeypatch.setattr(MODULES[task], "paint", paint_and_keep)
    rng = Random(7)
    scenes = [LEVELLED_DRAWERS[task](rng, 200, Knobs(level)) for _ in range(num)]
    return list(zip(scenes, painted, strict=True))


def meant_by(words: str, things: Sequence[Thing]) -> list[Thing]:
    """The things that every word of an expression fits; written without the code that wrote the expression."""
    found = list(things)
    for word in words.removeprefix("the ").split():
        if word not in ("thing", "things"):
            found = [t for t in found if word in t.attributes.values() or word[:-1] == t.attributes["shape"]]
    return found


@pytest.mark.parametrize(("task", "level"), EVERY)
def test_rows_are_decided_by_the_seed_and_earn_full_marks(task: str, level: int) -> None:
    rows = draw_samples(task, 25, seed=3, knobs=Knobs(level))
    assert draw_samples(task, 25, seed=3, knobs=Knobs(level)) == rows
    assert draw_samples(task, 5, seed=4, knobs=Knobs(level)) != rows[:5]
    for row in rows:
        load_task(task).check(row)
        size = open_image(row.images[0]).size
        assert size == (224, 224)
        assert row.meta["level"] == level
        views = (ImageView(*size, 2240, 2240, "resized_pixels"),)
        reward = score_completion(load_task(task), row, gold_completion(load_task(task), row, views), views)
        assert reward.parts[load_task(task).main_part] > 0.99
        assert reward.parts["format"] == 1


@pytest.mark.parametrize("level", [1, 2, 3])
def test_counting_by_attributes(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    for scene, things in draw_with_things(monkeypatch, "counting", level, 60):
        match = re.fullmatch(r"How many (.*) are there\?", scene.question)
        assert match is not None
        assert scene.answer == str(len(meant_by(match[1], things)))
        assert len(match[1].split()) - ("things" in match[1]) == level


def test_counting_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for scene, things in draw_with_things(monkeypatch, "counting", 4, 60):
        match = re.fullmatch(r"How many things are (.*) or (.*)\?", scene.question)
        assert match is not None
        either = {id(t) for words in match.groups() for t in meant_by(words, things)}
        assert scene.answer == str(len(either))


SIDES = {
    "left of": lambda t, a: t.x < a.x,
    "right of": lambda t, a: t.x > a.x,
    "above": lambda t, a: t.y < a.y,
    "below": lambda t, a: t.y > a.y,
}


def test_counting_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    for scene, things in draw_with_things(monkeypatch, "counting", 5, 60):
        match = re.fullmatch(r"How many (.*) are (left of|right of|above|below) (the .*)\?", scene.question)
        assert match is not None
        [anchor] = meant_by(match[3], things)
        assert scene.answer == str(sum(SIDES[match[2]](t, anchor) for t in meant_by(match[1], things)))


def test_answers_of_counting_are_spread() -> None:
    answers = Counter(row.answer for row in draw_samples("counting", 400, seed=0, knobs=Knobs(3)))
    assert set("012345") <= set(answers)
    assert max(answers.values()) < 160


@pytest.mark.parametrize("level", [1, 2, 3])
def test_expression_means_one_thing_and_its_box(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    for scene, things in draw_with_things(monkeypatch, "grounding", level, 40):
        [thing] = meant_by(scene.question.removeprefix("Where is ").removesuffix("?"), things)
        assert json.loads(scene.answer) == thing.box(200)


@pytest.mark.parametrize("level", [4, 5])
def test_expression_with_relation_means_one_thing(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    ranks = {"first": 0, "second": 1, "third": 2, "fourth": 3}
    keys = {"left": lambda t: t.x, "right": lambda t: -t.x, "top": lambda t: t.y, "bottom": lambda t: -t.y}
    for scene, things in draw_with_things(monkeypatch, "grounding", level, 40):
        beside = re.fullmatch(r"Where is (the .*) (left of|right of|above|below) (the .*)\?", scene.question)
        ranked = re.fullmatch(r"Where is the (\w+) (.*) from the (\w+)\?", scene.question)
        if level == 4:
            assert beside is not None
            [anchor] = meant_by(beside[3], things)
            [thing] = [t for t in meant_by(beside[1], things) if t is not anchor and SIDES[beside[2]](t, anchor)]
        else:
            assert ranked is not None
            thing = sorted(meant_by(ranked[2], things), key=keys[ranked[3]])[ranks[ranked[1]]]
        assert json.loads(scene.answer) == thing.box(200)


@pytest.mark.parametrize("level", LEVELS)
def test_box_is_where_the_pixels_are(level: int) -> None:
    rng = Random(1)
    for _ in range(25):
        scene = LEVELLED_DRAWERS["grounding"](rng, 200, Knobs(level))
        ground = scene.image.getpixel((0, 0))
        x1, y1, x2, y2 = json.loads(scene.answer)
        left, top = round(x1) - 2, round(y1) - 2
        area = scene.image.crop((left, top, round(x2) + 2, round(y2) + 2))
        pixels = area.load()
        assert pixels is not None
        dark = [
            (x + left, y + top)
            for x in range(area.width)
            for y in range(area.height)
            if sum(abs(p - g) for p, g in zip(pixels[x, y], ground, strict=True)) > 60  # type: ignore[arg-type]
        ]
        columns, rows = zip(*dark, strict=True)
        measured = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        assert all(abs(m - edge) <= 2 for m, edge in zip(measured, (x1, y1, x2, y2), strict=True)), scene.question


def test_things_are_not_counted_beside_the_only_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """``How many stars are right of the star?`` is answered without a look at the picture."""
    for scene, _ in draw_with_things(monkeypatch, "counting", 5, 400):
        match = re.fullmatch(r"How many (.*)s are (?:.* of|above|below) the (.*)\?", scene.question)
        assert match is not None, scene.question
        assert not set(match[2].split()) - {"thing"} <= set(match[1].split()), scene.question


def test_sides_and_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in (1, 2):
        for scene, things in draw_with_things(monkeypatch, "choice", level, 40):
            match = re.fullmatch(r"Where is (the .*) seen from (the .*)\? \(A\).*", scene.question)
            assert match is not None
            [thing], [anchor] = meant_by(match[1], things), meant_by(match[2], things)
            for side in scene.answer.removesuffix(" of").split(" and "):
                assert SIDES[side if side in SIDES else f"{side} of"](thing, anchor)


@pytest.mark.parametrize("level", [3, 4, 5])
def test_what_is_nearest_outermost_and_between(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    keys = {"leftmost": lambda t: t.x, "rightmost": lambda t: -t.x, "highest": lambda t: t.y, "lowest": lambda t: -t.y}
    for scene, things in draw_with_things(monkeypatch, "choice", level, 40):
        options = {option: meant_by(option, things)[0] for option in scene.options}
        question = scene.question.split("?")[0]
        named = [meant_by(words, things) for words in re.findall(r"the [a-z ]*?(?= and|$)", question)]
        if level == 3:
            [anchor] = meant_by(question.split("nearest to ")[1], things)
            answer = min(options, key=lambda o: math.dist((options[o].x, options[o].y), (anchor.x, anchor.y)))
        elif level == 4:
            answer = min(options, key=lambda o: keys[question.split()[-1]](options[o]))
        else:
            ends = question.split("between ")[1].split(" and ")
            xs = sorted(meant_by(end, things)[0].x for end in ends)
            [answer] = [o for o, t in options.items() if xs[0] < t.x < xs[1]]
        assert scene.answer == answer, (scene.question, named)


def measured_angle(corners: Sequence[tuple[float, float]], at: int, one: int, other: int) -> float:
    (x, y), (x1, y1), (x2, y2) = corners[at], corners[one], corners[other]
    turn = math.degrees(math.atan2(y1 - y, x1 - x) - math.atan2(y2 - y, x2 - x)) % 360
    return min(turn, 360 - turn)


@pytest.mark.parametrize(
    ("figure", "angle"),
    [
        (geometry._third_angle, lambda c, q: measured_angle(c, 2, 0, 1)),
        (geometry._isosceles, lambda c, q: measured_angle(c, 0, 1, 2) if "at A" in q else measured_angle(c, 2, 0, 1)),
        (geometry._exterior_angle, lambda c, q: 180 - measured_angle(c, 1, 0, 2)),
    ],
)
def test_figures_are_to_scale(monkeypatch: pytest.MonkeyPatch, figure: Any, angle: Any) -> None:
    """The angle that is asked for can be measured on the drawn figure."""
    drawn: list[Any] = []
    monkeypatch.setattr(geometry, "_outline", lambda canvas, corners, labels: drawn.append(corners))
    rng = Random(2)
    for _ in range(50):
        question, answer = figure(rng, geometry.Canvas(120, (255, 255, 255)))
        assert angle(drawn[-1], question) == pytest.approx(float(answer.removesuffix("°")), abs=1e-6), question


@pytest.mark.parametrize("figure", [geometry._third_angle, geometry._isosceles, geometry._bisected])
def test_an_arc_lies_in_each_labelled_angle(monkeypatch: pytest.MonkeyPatch, figure: Any) -> None:
    """Ink in the middle of the arc, and none beyond the sides of the angle."""
    monkeypatch.setattr(geometry.Canvas, "text", lambda *_: None)
    labelled: list[tuple[Any, int]] = []
    draw = geometry._label_angle

    def label(canvas: geometry.Canvas, corners: Any, corner: int, text: str) -> None:
        labelled.append((corners, corner))
        draw(canvas, corners, corner, text)

    monkeypatch.setattr(geometry, "_label_angle", label)
    rng = Random(3)
    for _ in range(20):
        labelled.clear()
        canvas = geometry.Canvas(300, (255, 255, 255))
        figure(rng, canvas)
        image = canvas.finish().convert("L")
        for corners, corner in labelled:
            (x, y), one, other = corners[corner], corners[corner - 1], corners[corner - 2]
            sides = [math.atan2(py - y, px - x) for px, py in (one, other)]
            middle = math.atan2(sum(map(math.sin, sides)), sum(map(math.cos, sides)))
            inside, outside = (
                min(image.getpixel((3 * (x + r * math.cos(way)), 3 * (y + r * math.sin(way)))) for r in (6.4, 6.7, 7.0))
                for way in (middle, middle + math.pi)
            )
            assert inside < 128 < outside


def test_lengths_and_areas_follow_from_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[tuple[int, float]] = []
    monkeypatch.setattr(geometry, "_label_side", lambda canvas, corners, side, text: labels.append((side, float(text))))
    rng = Random(2)
    for figure in (geometry._hypotenuse, geometry._rectangle, geometry._right_triangle_area):
        for _ in range(40):
            labels.clear()
            question, answer = figure(rng, geometry.Canvas(120, (255, 255, 255)))
            sides = dict(labels)
            if figure is geometry._rectangle:
                expected = sides[0] * sides[1] if "area" in question else 2 * (sides[0] + sides[1])
            elif figure is geometry._hypotenuse:
                expected = math.sqrt(
                    sides[0] ** 2 + sides[2] ** 2
                    if 1 not in sides
                    else sides[1] ** 2 - sides.get(0, sides.get(2, 0)) ** 2
                )
            else:
                expected = sides[0] * math.sqrt(sides[1] ** 2 - sides[0] ** 2) / 2
            assert float(answer) == pytest.approx(expected), question


@pytest.mark.parametrize(("task", "level"), [(task, 5) for task in LEVELLED_DRAWERS])
def test_thousand_rows_take_less_than_ten_seconds(task: str, level: int) -> None:
    assert takes_less_than(2.5, lambda: draw_samples(task, 250, seed=0, knobs=Knobs(level)))


def test_number_of_things_is_a_knob() -> None:
    few = draw_samples("counting", 20, seed=0, knobs=Knobs(1, (5, 5)))
    many = draw_samples("counting", 20, seed=0, knobs=Knobs(1, (16, 16)))
    assert sum(len(row.images[0]) for row in many) > 1.3 * sum(len(row.images[0]) for row in few)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--task", "choice"], ["choice", "--level"]),
        (["--level", "6"], ["--level", 6]),
        (["--objects", "5", "9"], ["--objects", "--level"]),
        (["--level", "2", "--objects", "3", "9"], ["--objects", "3 9", 5, 16]),
        (["--level", "2", "--objects", "9", "5"], ["--objects", "9 5"]),
        (["--level", "2", "--size", "84"], ["--size", 84, 112]),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], named: list[Any], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "rows.parquet")
    assert main(["--task", "counting", "--out", out, "--num", "3", "--seed", "0", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(naming(*named), error)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
