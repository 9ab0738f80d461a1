from pathlib import Path

import pytest

from gpg_vl.records import ImageView, Reward, Sample
from gpg_vl.tasks import TASKS, load_task
from gpg_vl.tasks.base import gold_completion, score_completion
from tests.support.clock import takes_less_than
from tests.support.messages import naming

GRID = ImageView(640, 480, 644, 476, "grid_1000")
PIXELS = ImageView(640, 480, 320, 240, "resized_pixels")


def make_sample(task: str, answer: str, **meta: object) -> Sample:
    return Sample(f"{task}-1", task, ("picture.png",), "What is asked?", answer, meta)


SAMPLES = [
    make_sample("counting", "4"),
    make_sample("geometry", "8√{3}cm"),
    make_sample("geometry", "B"),
    make_sample("grounding", "[64, 48, 320, 240]"),
]


def score(sample: Sample, answer: str, reasoning: str = "", view: ImageView = GRID) -> Reward:
    text = f"<think>{reasoning}</think><answer>{answer}</answer>"
    return score_completion(TASKS[sample.task], sample, text, [view])


def write_task(folder: Path, body: str) -> Path:
    path = folder / "colour.py"
    path.write_text(body, encoding="utf-8")
    return path


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [GRID, PIXELS])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.task}-{sample.answer}")
def test_gold_earns_full_marks(sample: Sample, view: ImageView) -> None:
    task = TASKS[sample.task]
    task.check(sample)
    reward = score_completion(task, sample, gold_completion(task, sample, [view]), [view])
    assert reward == Reward(pytest.approx(1.2), {task.main_part: 1.0, "format": 1.0}, "ok", main=1.0)


def test_gold_completion_holds_the_reasoning_of_the_row() -> None:
    sample = make_sample("counting", "4", reasoning="2 and 2")
    assert gold_completion(TASKS["counting"], sample, [GRID]) == "<think>2 and 2</think><answer>4</answer>"


def test_number_in_the_reasoning_earns_nothing() -> None:
    for sample in SAMPLES:
        wrong = score(sample, "77", reasoning=f"surely {sample.answer}")
        assert wrong.parts[TASKS[sample.task].main_part] == 0
        assert wrong.total == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("task", "gold", "answer", "correct"),
    [
        ("counting", "4", " 4. ", 1),
        ("counting", "4", "+4", 1),
        ("counting", "4", "5", 0),
        ("counting", "4", "-4", 0),
        ("geometry", "140°", "140", 1),
        ("geometry", "140°", "14", 0),
        ("geometry", "5 m", "5", 1),
        ("geometry", "5", "5 cm", 1),
        ("geometry", "5 m", "5 米", 1),
        ("geometry", "5 m", "5 cm", 0),
        ("geometry", r"\frac{1}{2}", "0.5", 1),
        ("geometry", "C", "(c)", 1),
        ("geometry", "C", "D", 0),
    ],
)
def test_answers_are_compared_by_value(task: str, gold: str, answer: str, correct: float) -> None:
    assert score(make_sample(task, gold), answer).parts["correct"] == correct


def test_grounding_scores_the_overlap_in_original_pixels() -> None:
    sample = make_sample("grounding", "[0, 0, 320, 480]")
    assert score(sample, "[0, 0, 500, 1000]").parts["iou"] == pytest.approx(1)
    assert score(sample, "[0, 0, 1000, 1000]").parts["iou"] == pytest.approx(0.5)
    assert score(sample, "[0, 0, 320, 240]", view=PIXELS).parts["iou"] == pytest.approx(0.5)
    assert score(sample, "(0,0),(160,240)", view=PIXELS).parts["iou"] == pytest.approx(1)
    assert score(sample, "[500, 0, 1000, 1000]").status == "ok"


def test_detection_of_exactly_half_an_overlap_is_a_hit() -> None:
    sample = make_sample("detection", "[0, 0, 640, 480]")
    half, less = (f"[{{'Position': [0, 0, {right}, 1000], 'Confidence': 1}}]" for right in (500, 499))
    assert score(sample, half).parts == {"iou": 0.5, "confidence": 1, "format": 1}
    assert score(sample, less).parts == {"iou": pytest.approx(0.499), "confidence": -1, "format": 1}


@pytest.mark.parametrize("gold", ["No Objects", "[]"])
def test_detection_of_nothing(gold: str) -> None:
    sample = make_sample("detection", gold)
    TASKS["detection"].check(sample)
    for answer in ("No Objects", "[]"):
        assert score(sample, answer).parts == {"iou": 1, "confidence": 1, "format": 1}
        assert score(make_sample("detection", "[64, 48, 320, 240]"), answer).parts["iou"] == 0
    assert score(sample, "[100, 100, 500, 500]").parts["iou"] == 0


@pytest.mark.parametrize(
    ("answer", "view", "is_read"),
    [
        ("[0, 0, 321, 241]", PIXELS, True),
        ("[-1, -1, 320, 240]", PIXELS, True),
        ("[0, 0, 322, 240]", PIXELS, False),
        ("[0, -2, 320, 240]", PIXELS, False),
        ("[320, 0, 321, 240]", PIXELS, False),
        ("[0, 0, 1002, 1002]", GRID, True),
        ("[0, 0, 1004, 1000]", GRID, False),
    ],
)
def test_grounding_moves_a_corner_just_outside_to_the_edge(answer: str, view: ImageView, is_read: bool) -> None:
    reward = score(make_sample("grounding", "[0, 0, 640, 480]"), answer, view=view)
    assert (reward.parts["iou"], reward.status) == ((1, "ok") if is_read else (0, "unparsable"))


def test_small_gold_box_keeps_an_area_on_the_grid() -> None:
    view = ImageView(8000, 8000, 800, 800, "grid_1000")
    for left in (0.0, 10.0, 3999.5, 7999.0):
        sample = make_sample("grounding", f"[{left}, {left}, {left + 1}, {left + 1}]")
        reward = score(sample, TASKS["grounding"].gold(sample, [view]), view=view)
        assert reward.status == "ok"


# --- what nobody should earn by --------------------------------------------------------------------------------------

HOSTILE = [
    "",
    " ",
    "nan",
    "NaN",
    "inf",
    "1e999",
    "-1e999",
    "9" * 30,
    "９",
    "٤",
    "4\u200b4",
    "3 or 4",
    "[]",
    "[[[[" * 100,
    "[1000, 1000, 0, 0]",
    "[320, 240, 64, 48]",
    "[0, 0, 0, 0]",
    "[0, 0, 9999, 9999]",
    "[-500, -500, 500, 500]",
    "[0, 0, nan, 1e999]",
    "[100, 100, 500, 500], [100, 100, 500, 500]",
    "[0, 0, 1000, 1000] " * 1000,
    "A B C D",
    "What is asked?",
    "8√3 8√3",
    "x" * 60_000,
    "(" * 500,
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:20] or "empty")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.task}-{sample.answer}")
def test_hostile_answers_earn_no_more_than_a_wrong_one(sample: Sample, answer: str) -> None:
    score(sample, "1/(1+√2)")  # warm: what a task imports late, it imports now
    assert takes_less_than(0.05, lambda: score(sample, answer))
    reward = score(sample, answer)
    assert reward.total <= 0.2
    assert reward.parts[TASKS[sample.task].main_part] == 0


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.task}-{sample.answer}")
def test_hostile_completions_earn_nothing(sample: Sample) -> None:
    gold = TASKS[sample.task].gold(sample, [GRID])
    for text in [
        "",
        gold,
        f"<think>{gold}</think>",
        f"<think></think><answer>{gold}</answer><answer>{gold}</answer>",
        f"<answer>{gold}</answer><think></think>",
        f"<think></think><answer><answer>{gold}</answer></answer>",
        f"<think>{'x' * 65_536}</think><answer>{gold}</answer>",
        "<answer>" * 8000,
        f"<think>so <answer>{gold}</answer>",
    ]:
        reward = score_completion(TASKS[sample.task], sample, text, [GRID])
        assert reward == Reward(0.0, {TASKS[sample.task].main_part: 0.0, "format": 0.0}, "unparsable", main=0.0)


def test_whole_image_earns_exactly_its_overlap() -> None:
    sample = make_sample("grounding", "[64, 48, 320, 240]")
    assert score(sample, "[0, 0, 1000, 1000]").parts["iou"] == pytest.approx((256 * 192) / (640 * 480))


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_task_asks_its_question_and_the_format(name: str) -> None:
    request = TASKS[name].ask(make_sample(name, "4"), [GRID])
    assert request.startswith("What is asked?\n")
    assert "<think>" in request
    assert "</answer>" in request
    assert TASKS[name].name == name


def test_grounding_asks_in_the_frame_of_the_model() -> None:
    sample = make_sample("grounding", "[64, 48, 320, 240]")
    assert "grid from 0 to 1000" in TASKS["grounding"].ask(sample, [GRID])
    assert "in pixels of the 320 x 240 image" in TASKS["grounding"].ask(sample, [PIXELS])


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("counting", "4.0"),
        ("counting", "-1"),
        ("counting", "four"),
        ("geometry", ""),
        ("geometry", "nan"),
        ("grounding", "[1, 2, 3]"),
        ("grounding", "[30, 2, 1, 40]"),
        ("grounding", "[-3, 2, 30, 40]"),
    ],
)
def test_rows_that_a_task_cannot_read(task: str, answer: str) -> None:
    with pytest.raises(ValueError, match=naming("answer", repr(answer))):
        TASKS[task].check(make_sample(task, answer))


def test_choices_by_letter() -> None:
    sample = make_sample("choice", "B", options={"A": "left", "B": "right"})
    TASKS["choice"].check(sample)
    assert [score(sample, answer).parts["correct"] for answer in ("right", "B", "left", "A")] == [1, 1, 0, 0]


def test_choices_that_stand_twice() -> None:
    TASKS["choice"].check(make_sample("choice", "up", options=["same", "up", "same"]))
    for answer in ("same", "A"):
        with pytest.raises(ValueError, match=naming("same")):
            TASKS["choice"].check(make_sample("choice", answer, options=["same", "up", "same"]))


def test_grounding_needs_an_image() -> None:
    with pytest.raises(ValueError, match=naming("image")):
        TASKS["grounding"].check(Sample("a", "grounding", (), "Where?", "[1, 2, 30, 40]"))


# --- tasks by name and by path ---------------------------------------------------------------------------------------

COLOUR_TASK = """
from __future__ import annotations
from dataclasses import dataclass
from gpg_vl.tasks.base import FORMAT_REQUEST, Task

@dataclass
class Colour:
    name: str

class ColourTask(Task):
    name = "colour"

    def ask(self, sample, views):
        return f"{sample.question} {FORMAT_REQUEST}"

    def read(self, answer, sample, views):
        return Colour(answer.lower())

    def score(self, answer, sample, views):
        return {"correct": float(answer == Colour(sample.answer))}

class NotReady(Task):
    name = "half"

class Nameless(ColourTask):
    name = ""
"""


def test_task_of_a_file(tmp_path: Path) -> None:
    path = write_task(tmp_path, COLOUR_TASK)
    task = load_task(f"{path}:ColourTask")
    sample = Sample("a", f"{path}:ColourTask", (), "Which colour?", "red")
    task.check(sample)
    assert score_completion(task, sample, gold_completion(task, sample, []), []).total == pytest.approx(1.2)
    assert load_task(f"{path}:ColourTask") is task


def test_task_of_a_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, COLOUR_TASK)
    monkeypatch.chdir(tmp_path)
    assert load_task("colour.py:ColourTask").name == "colour"


@pytest.mark.parametrize(
    ("class_name", "named"),
    [
        ("Color", []),
        ("Colour", ["gpg_vl.tasks.base.Task"]),
        ("FORMAT_REQUEST", ["gpg_vl.tasks.base.Task"]),
        ("NotReady", ["TypeError", "ask"]),
        ("Nameless", ["name"]),
    ],
)
def test_classes_that_are_no_task(tmp_path: Path, class_name: str, named: list[str]) -> None:
    path = write_task(tmp_path, COLOUR_TASK)
    with pytest.raises(ValueError, match=naming(path, class_name, *named)) as caught:
        load_task(f"{path}:{class_name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "error"),
    [("def broken(:", "SyntaxError"), ("import no_such_module", "ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError")],
)
def test_files_that_do_not_import(tmp_path: Path, body: str, error: str) -> None:
    path = write_task(tmp_path, body)
    with pytest.raises(ValueError, match=naming(path, error)) as caught:
        load_task(f"{path}:ColourTask")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("countng", ["countng", "counting"]),
        ("", sorted(TASKS)),
        ("colour:ColourTask", ["colour:ColourTask", *sorted(TASKS)]),
        ("colour.py", ["colour.py:ClassName"]),
        ("missing/colour.py:ColourTask", ["missing/colour.py"]),
    ],
)
def test_specs_that_name_no_task(spec: str, named: list[str]) -> None:
    with pytest.raises(ValueError, match=naming(*named)):
        load_task(spec)
