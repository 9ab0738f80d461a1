"""Gold answers that no completion could repeat for full marks."""

from __future__ import annotations

import pytest

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.marks import find_lost_marks

GRID = ImageView(84, 84, 84, 84, "grid_1000")
PIXELS = ImageView(84, 84, 56, 56, "resized_pixels")


def find(task: str, answer: str, view: ImageView = GRID, with_reasoning: bool = True, **meta: object) -> str | None:
    sample = Sample("1", task, (b"",), "How many?", answer, dict(meta))
    TASKS[task].check(sample)
    return find_lost_marks(TASKS[task], sample, [view], with_reasoning=with_reasoning)


@pytest.mark.parametrize("view", [GRID, PIXELS])
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("counting", "4"),
        ("geometry", "8√3"),
        ("classification", "Boeing 737-200"),
        ("grounding", "[0, 0, 84, 84]"),
        ("grounding", "[3, 4, 5, 5]"),
        ("grounding", "[[1, 2, 30, 40], [5, 6, 70, 80]]"),
        ("detection", "[{'Position': [1, 2, 30, 40], 'Confidence': 1}]"),
        ("detection", "No Objects"),
    ],
)
def test_good_answers(task: str, answer: str, view: ImageView) -> None:
    assert find(task, answer, view) is None


@pytest.mark.parametrize("view", [GRID, PIXELS])
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("grounding", "[100, 200, 500, 900]"),
        ("grounding", "[[1, 2, 30, 40], [1, 2, 30, 140]]"),
        ("detection", "[{'Position': [10, 20, 90, 40], 'Confidence': 1}]"),
        ("grounding", "[0.1, 0.2, 0.5, 0.6]"),
        ("detection", "[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]"),
        ("counting", "The answer is 2"),
        ("counting", "four"),
    ],
)
def test_answers_that_cannot_be_reached(task: str, answer: str, view: ImageView) -> None:
    try:
        lost = find(task, answer, view)
    except ValueError as error:
        lost = str(error)
    assert lost is not None and "\n" not in lost


@pytest.mark.parametrize("reasoning", ["two </think> three", "<answer>5</answer>", "<think>again", "</answer>"])
def test_reasoning_with_tags_is_found_where_it_is_trained(reasoning: str) -> None:
    lost = find("counting", "3", reasoning=reasoning)
    assert lost is not None and "reasoning" in lost
    assert find("counting", "3", with_reasoning=False, reasoning=reasoning) is None
    assert find("counting", "3", reasoning="one, two, three") is None
