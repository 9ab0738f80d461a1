import subprocess
import sys
from typing import get_args

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from gpg_vl.records import Box, Frame, ImageView
from gpg_vl.verifiers.box_values import parse_box
from gpg_vl.verifiers.boxes import (
    assign,
    assign_boxes,
    assigned_iou,
    clip_box,
    giou,
    iou,
    iou_matrix,
    is_inside,
    is_ordered,
)
from tests.support.clock import takes_less_than

coordinates = st.floats(-2000, 2000, allow_nan=False)
any_boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
boxes = any_boxes.map(lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])))


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 30, 40]",
        " [1,2,30,40]\n",
        "[ 1 , 2 ,\n30 , 40 ]",
        "[1.0, 2.00, +30, 40.0]",
        "(1,2),(30,40)",
        "( 1, 2 ) , ( 30, 40 )",
    ],
)
def test_written_boxes(text: str) -> None:
    assert parse_box(text) == (1, 2, 30, 40)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1, 2, 30]",
        "[1, 2, 30, 40, 50]",
        "1, 2, 30, 40",
        "[1 2 30 40]",
        "box [1, 2, 30, 40]",
        "[1, 2, 30, 40].",
        "[1, 2, 30, 40], [1, 2, 30, 40]",
        "[[1, 2, 30, 40]]",
        "(1,2,30,40)",
        "[1, 2, 30, nan]",
        "[1, 2, 30, inf]",
        "[1, 2, 30, 1e999]",
        "[1, 2, 30, 1e2]",
        "[1, 2, 30, 9999999999]",
        "[1, 2, 30, ４0]",
        "[1, 2, 30, 4\u200b0]",
        "[--1, 2, 30, 40]",
        "[1, 2, 30, 0x28]",
    ],
)
def test_everything_else_is_no_box(text: str) -> None:
    assert parse_box(text) is None


@pytest.mark.parametrize("piece", ["[", "[1,", " ", "[1, 2, 30, 40]", "9", "(1,2),"])
def test_hostile_text_is_fast(piece: str) -> None:
    text = (piece * 65_536)[:65_536]
    assert parse_box(text) is None
    assert takes_less_than(0.05, lambda: parse_box(text))


def test_negative_and_inverted_boxes_are_read_but_not_ordered() -> None:
    assert parse_box("[-1, 2, 30, 40]") == (-1, 2, 30, 40)
    inverted = parse_box("[1000, 1000, 0, 0]")
    assert inverted is not None
    assert not is_ordered(inverted)
    assert not is_ordered((0, 0, 0, 10))
    assert is_ordered((0, 0, 1, 1))


def test_inside_and_clipping() -> None:
    assert is_inside((0, 0, 640, 480), 640, 480)
    assert not is_inside((0, 0, 640.5, 480), 640, 480)
    assert is_inside((-1, 0, 641, 480), 640, 480, tolerance=1)
    assert not is_inside((-1.5, 0, 641, 480), 640, 480, tolerance=1)
    assert clip_box((-1, 5, 641, 480), 640, 480) == (0, 5, 640, 480)


def test_known_overlaps() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert iou((0, 0, 10, 10), (2, 2, 4, 4)) == pytest.approx(0.04)
    assert iou((0, 0, 0, 10), (0, 0, 0, 10)) == 0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0
    assert iou((0, 0, 1e-200, 1e-200), (0, 0, 1e-200, 1e-200)) == 0


@given(any_boxes, any_boxes)
def test_overlap_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1


@given(boxes)
def test_a_box_overlaps_itself_fully(box: Box) -> None:
    has_area = (box[2] - box[0]) * (box[3] - box[1]) > 0
    assert iou(box, box) == (1 if has_area else 0)


@given(st.tuples(*[st.integers(0, 4000)] * 4), st.tuples(*[st.integers(0, 4000)] * 4))
def test_overlap_does_not_depend_on_the_scale(a: Box, b: Box) -> None:
    def scale(box: Box) -> Box:
        return (box[0] * 0.25, box[1] * 0.25, box[2] * 0.25, box[3] * 0.25)

    assert iou(scale(a), scale(b)) == pytest.approx(iou(a, b))


# --- several boxes ----------------------------------------------------------------------------------------------------

few_boxes = st.lists(boxes, max_size=5)


@given(any_boxes, any_boxes)
def test_giou_is_symmetric_and_bounded(a: Box, b: Box) -> None:
    assert giou(a, b) == giou(b, a)
    assert -1 <= giou(a, b) <= iou(a, b) <= 1


def test_known_giou() -> None:
    assert giou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert giou((0, 0, 10, 10), (20, 0, 30, 10)) == pytest.approx(-1 / 3)
    assert giou((10, 10, 0, 0), (0, 0, 10, 10)) == -1


@given(few_boxes, few_boxes)
def test_matrix_holds_every_pair(left: list[Box], right: list[Box]) -> None:
    matrix = iou_matrix(left, right)
    assert matrix.shape == (len(left), len(right))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            assert matrix[i, j] == pytest.approx(iou(a, b))


def greedy_sum(answered: list[Box], gold: list[Box]) -> float:
    free, total = list(gold), 0.0
    for box in answered:
        if free:
            best = max(free, key=lambda other: iou(box, other))
            total += iou(box, best)
            free.remove(best)
    return total


@given(few_boxes, few_boxes)
def test_assignment_is_one_to_one_and_never_worse_than_greedy(answered: list[Box], gold: list[Box]) -> None:
    pairs = assign_boxes(answered, gold)
    assert len({pair.answered for pair in pairs}) == len({pair.gold for pair in pairs}) == len(pairs)
    assert sum(pair.iou for pair in pairs) >= greedy_sum(answered, gold) - 1e-9


@given(few_boxes, few_boxes, st.randoms(use_true_random=False))
def test_assigned_overlap_is_bounded_and_knows_no_order(answered: list[Box], gold: list[Box], random: object) -> None:
    score = assigned_iou(answered, gold)
    assert 0 <= score <= 1 + 1e-9
    shuffled = list(answered)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assigned_iou(shuffled, gold) == pytest.approx(score)
    assert assigned_iou(gold, answered) == pytest.approx(score)


def test_surplus_and_missing_boxes_cost_alike() -> None:
    a, b = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
    assert assigned_iou([a], [a]) == 1
    assert assigned_iou([a, b], [a]) == assigned_iou([a], [a, b]) == assigned_iou([a, a], [a]) == 0.5
    assert assigned_iou([], []) == 1
    assert assigned_iou([], [a]) == assigned_iou([a], []) == 0


sides = st.integers(20, 4000)


@given(st.tuples(*[st.integers(0, 1000)] * 4), sides, sides, st.sampled_from(get_args(Frame)))
def test_overlap_does_not_depend_on_the_frame(box: Box, width: int, height: int, frame: Frame) -> None:
    view = ImageView(width, height, 448, 336, frame)
    gold = (0.2 * width, 0.1 * height, 0.9 * width, 0.7 * height)
    original = (box[0] * width / 1000, box[1] * height / 1000, box[2] * width / 1000, box[3] * height / 1000)
    assert iou(view.to_model(original), view.to_model(gold)) == pytest.approx(iou(original, gold), abs=1e-9)
    assert view.to_original(view.to_model(original)) == pytest.approx(original)


@st.composite
def overlap_matrices(draw: st.DrawFn) -> numpy.ndarray:
    """Of few values, so that several assignments are as good as each other."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    values = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return numpy.array(draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)


@given(overlap_matrices())
def test_assignment_is_the_one_of_scipy(overlaps: numpy.ndarray) -> None:
    """Also where one row or one column needs no solver: of equal overlaps the same one is chosen."""
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    assert assign(overlaps) == list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_scipy_is_imported_for_several_boxes_of_each_side_alone() -> None:
    code = (
        "import sys; from gpg_vl.verifiers.boxes import assign_boxes; one, two = (0, 0, 9, 9), (5, 5, 9, 9);"
        "assign_boxes([one], [one, two]); assign_boxes([one, two], [one]); print('scipy' in sys.modules);"
        "assign_boxes([one, two], [one, two]); print('scipy.optimize' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
