"""Every rule of every published scorer on completions written for it, with the verdict the published code gives."""

import pytest

from gpg_vl.records import ImageView, Reward, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import Task, legacy_scorer, score_completion, task_weights
from tests.support.messages import naming

GRID = ImageView(1000, 1000, 1000, 1000, "grid_1000")
CHOICES = {"choices": ["chair", "table", "lamp"]}


def make_sample(task: str, answer: str, **meta: object) -> Sample:
    return Sample("1", task, ("picture.png",), "What is asked?", answer, meta)


def reward(task: str, gold: str, text: str, **meta: object) -> Reward:
    return score_completion(TASKS[task], make_sample(task, gold, **meta), text, [GRID], scorer="legacy")


def metric(task: str, gold: str, text: str, **meta: object) -> float:
    return legacy_scorer(TASKS[task]).metric(text, make_sample(task, gold, **meta), [GRID])


# --- format, shared ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>4</answer>", 1),
        ("<think>a\nb</think>\n <answer>4\n</answer>", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a</think><answer>4</answer><think>b</think><answer>5</answer>", 1),
        ("<think>a</think><answer>4</answer> ", 0),
        (" <think>a</think><answer>4</answer>", 0),
        ("<think>a</think>so<answer>4</answer>", 0),
        ("<answer>4</answer>", 0),
        ("<think>a<answer>4</answer>", 0),
    ],
)
def test_format(text: str, expected: float) -> None:
    assert reward("counting", "4", text).parts["format"] == expected


def test_sat_puts_the_opening_tag_before_the_completion() -> None:
    text = "so left</think> <answer>left</answer>"
    assert reward("choice", "left", text).parts["format"] == 1
    assert reward("choice", "left", "<think>" + text).parts["format"] == 1
    assert reward("geometry", "4", text).parts["format"] == 0


# --- counting and GEOQA: R1-V -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["counting", "geometry"])
@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("3", "<answer> 3 </answer>", 1),  # math-verify
        ("3", "<answer>3</answer>", 1),  # the same text
        ("3", "<answer>5</answer>", 0),
        ("3", "<answer> 5 </answer>", 0),
        ("3", "<think>There are 3 items.</think><answer>5</answer>", 1),  # the reasoning decides
        ("3", "<think>There are 3 items.</think><answer> 5 </answer>", 0),  # the tag is an anchor
        ("3", "3", 1),  # no tag: the whole completion
        ("3", "<answer>\n3\n</answer>", 1),  # across lines, by math-verify
        ("3", "<answer>\nthree\n</answer>", 0),
        ("3", "", 0),
        ("3", "<answer></answer>", 0),
    ],
)
def test_r1v_reward(task: str, gold: str, text: str, expected: float) -> None:
    assert reward(task, gold, text).parts["accuracy"] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>\n<answer>\n 4 \n</answer>", 1),
        ("<answer>4</answer> and <answer>5</answer>", 1),
        ("<answer>5</answer> and <answer>4</answer>", 0),
        ("<answer>four</answer> <answer>4</answer>", 1),
        ("<answer>04</answer>", 1),
        ("<answer>4.</answer>", 0),
        ("<answer>4 items</answer>", 0),
        ("4", 0),
        ("<answer>" + "9" * 5000 + "</answer>", 0),
    ],
)
def test_counting_metric(text: str, expected: float) -> None:
    assert metric("counting", "4", text) == expected


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("140°", "<answer>140</answer>", 0),  # not after a space
        ("140°", "<answer> 140 </answer>", 1),
        ("140°", "so it is 140 degrees", 1),
        ("140°", "<think>a is 140</think><answer>50</answer>", 1),
        ("8√{3}", "<answer> 8 </answer>", 1),
        ("65π", "<answer> 65 </answer>", 1),
        ("√{3}", "<answer> √{3} </answer>", 0),
        (r"\frac{3}{2}", "<answer> 1.5 </answer>", 1),
        ("140°", "<answer> 9^9^9 </answer>", 0),
    ],
)
def test_geoqa_metric(gold: str, text: str, expected: float) -> None:
    assert metric("geometry", gold, text) == expected


def test_geoqa_reward_takes_the_text_where_math_verify_reads_nothing() -> None:
    assert reward("geometry", "√{3}", "<answer>√{3}</answer>").parts["accuracy"] == 1
    assert reward("geometry", "√{3}", "<answer> √3 </answer>").parts["accuracy"] == 0


# --- choice: SAT and CV-Bench -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("left", "a</think><answer>left</answer>", 1),
        ("left", "a</think><answer> left </answer>", 1),
        ("left", "a</think><answer>Left</answer>", 0),
        ("left", "a</think><answer>left.</answer>", 0),
        ("left", "a</think><answer>it is left</answer>", 0),
        ("2", "a</think><answer>two</answer>", 0),
        ("left", "a</think><answer>\nleft\n</answer>", 0),
        ("left", "left", 1),
        ("left", "<think>left", 1),
        ("B", "a</think><answer>A or (B)</answer>", 1),
        ("A", "a</think><answer>A or (B)</answer>", 0),
        ("to 3 legs", "it has 3 </think><answer>wrong</answer>", 1),
    ],
)
def test_sat_reward(gold: str, text: str, expected: float) -> None:
    assert reward("choice", gold, text).parts["accuracy"] == expected


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("(A)", "<answer>(A)</answer>", 1),
        ("(A)", "<answer> a </answer>", 1),
        ("(A)", "<answer>chair</answer>", 1),
        ("(A)", "<answer>Chair</answer>", 0),
        ("(B)", "<answer>\nB\n</answer>", 1),
        ("(B)", "<answer>chair</answer>", 0),
        ("(A)", "There are a lot", 1),  # the article
        ("(A)", "the table is closer than the chair", 1),  # the last that is named
        ("(B)", "the table is closer than the chair", 0),
        ("table", "<answer>(B)</answer>", 1),
        ("(A)", "", 0),
    ],
)
def test_cv_bench_metric(gold: str, text: str, expected: float) -> None:
    assert metric("choice", gold, text, **CHOICES) == expected


def test_cv_bench_metric_knows_six_letters() -> None:
    seven = {"choices": ["chair", "table", "lamp", "sofa", "door", "bed", "shelf"]}
    assert metric("choice", "(F)", "<answer>F</answer>", **seven) == 1
    assert metric("choice", "(G)", "<answer>G</answer>", **seven) == 0
    assert metric("choice", "(A)", "it is A and not G", **seven) == 1


def test_cv_bench_metric_on_counts() -> None:
    counts = {"choices": ["2", "3", "0"]}
    assert metric("choice", "(B)", "<answer>3</answer>", **counts) == 1
    assert metric("choice", "(B)", "<answer>2</answer>", **counts) == 0


# --- classification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "text", "expected_reward", "expected_metric"),
    [
        ("rose", "<answer>rose</answer>", 1, 1),
        ("american_bulldog", "<answer>American Bulldog</answer>", 1, 1),
        ("rose", "<answer>tulip</answer>", 0, 0),
        ("rose", "<answer></answer>", 1, 1),
        ("737-300", "<answer>737</answer>", 1, 1),
        ("2012 Audi A5 Coupe", "<answer>2012</answer>", 1, 1),
        ("2012 Audi A5 Coupe", "<answer>coupe</answer>", 1, 1),
        ("rose", "<answer>rose, tulip, lily</answer>", 1, 1),
        ("rose", "<answer>pink primrose</answer>", 1, 1),
        ("rose", "", 1, 0),
        ("rose", "surely a rose", 1, 0),
        ("rose", "<answer>\nrose\n</answer>", 1, 0),  # the whole text, tags included, holds the name
        ("rose", "<answer>tulip</answer><answer>rose</answer>", 0, 0),
    ],
)
def test_classification(gold: str, text: str, expected_reward: float, expected_metric: float) -> None:
    assert reward("classification", gold, text).parts["accuracy"] == expected_reward
    assert metric("classification", gold, text) == expected_metric


# --- grounding: LISA --------------------------------------------------------------------------------------------------

GOLD_BOX = "[100, 200, 300, 400]"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<answer>(100,200),(300,400)</answer>", 2),
        ("<answer>\n(100, 200), (300, 400)\n</answer>", 2),
        ("(100,200),(300,400)", 2),
        ("<answer>(100,200),(200,400)</answer>", 1.5),
        ("<answer>(900,900),(1000,1000)</answer>", 0.069),
        ("<answer>(0,0),(1000,1000)</answer>", 1.04),
        ("<answer>(200,300),(200,300)</answer>", 1),
        ("<answer>(100.0,200.0),(300.0,400.0)</answer>", 0),
        ("<answer>[100,200,300,400]</answer>", 0),
        ("<answer>(-100,200),(300,400)</answer>", 0),
        ("<answer>(300,400),(100,200)</answer>", 2),
        ("<answer>(300,200),(100,400)</answer>", 0),
        ("<answer>(900,900),(1000,1000) (100,200),(300,400)</answer>", 15),
        ("<answer>(100,200),(300,400) (900,900),(1000,1000)</answer>", 1.071),
        ("<answer>(100,200),(300,400)</answer><answer>(0,0),(1,1)</answer>", 2),
        ("", 0),
        ("<answer>(" + "9" * 5000 + ",1),(2,2)</answer>", 0),
        ("<answer>(" + "9" * 400 + ",1),(2,2)</answer>", 0),
    ],
)
def test_lisa_reward(answer: str, expected: float) -> None:
    assert reward("grounding", GOLD_BOX, answer).parts["accuracy"] == pytest.approx(expected, abs=5e-4)


def test_lisa_reward_of_an_inverted_box_is_unbounded() -> None:
    assert reward("grounding", "[100, 100, 200, 200]", "<answer>(1000,1000),(0,0)</answer>").parts["accuracy"] == (
        pytest.approx(101)
    )


def test_lisa_gold_is_truncated_to_the_grid() -> None:
    view = ImageView(640, 480, 644, 476, "grid_1000")
    sample = make_sample("grounding", "[65.2, 48, 320, 240]")  # 101.875 on the grid

    def accuracy(text: str) -> float:
        return score_completion(TASKS["grounding"], sample, text, [view], scorer="legacy").parts["accuracy"]

    assert accuracy("<answer>(101,100),(500,500)</answer>") == 2
    assert accuracy("<answer>(102,100),(500,500)</answer>") < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>(100,200),(300,400)</answer>", 1),
        ("<think>(0,0),(10,10)</think><answer>(100,200),(300,400)</answer>", 0),
        ("<think>(100,200),(300,400)</think>", 1),
        ("<answer>(100,200),(200,400)</answer>", 0.5),
        ("<answer>(300,400),(100,200)</answer>", 0),
        ("nothing", 0),
        ("(" + "9" * 5000 + ",1),(2,2)", 0),
    ],
)
def test_lisa_metric(text: str, expected: float) -> None:
    assert metric("grounding", GOLD_BOX, text) == pytest.approx(expected, abs=1e-4)


# --- detection --------------------------------------------------------------------------------------------------------

TWO = "[{'Position': [10, 20, 110, 120], 'Confidence': 1}, {'Position': [500, 510, 700, 710], 'Confidence': 1}]"
ONE = "[{'Position': [100, 200, 300, 400], 'Confidence': 1}]"


@pytest.mark.parametrize(
    ("gold", "answer", "iou", "confidence"),
    [
        (ONE, "[{'Position': [100, 201, 300, 400], 'Confidence': 0.8}]", 0.995, 0.8),
        (ONE, "[{'Position': [600, 700, 800, 900], 'Confidence': 0.9}]", 0, 0.1),
        (ONE, "[{'Position': [600, 700, 800, 900], 'Confidence': 0.0}]", 0, 1),
        (ONE, "[{'Position': [600, 200, 601, 201], 'Confidence': 5}]", 1, 1),  # the gold's first y1
        (ONE, "\n[{'Position': [100, 201, 300, 400], 'Confidence': 0.8}]\n", 0, 0),  # no DOTALL
        (ONE, "No Objects", 0, 0),
        ("No Objects", "No Objects", 0, 0),
        (ONE, "[]", 0, 0),
        (ONE, "[[1, 2, 3, 4]]", 0, 0),
        (ONE, "[[{'Position': [100, 201, 300, 400], 'Confidence': 1}]]", 0.995, 1),
        (ONE, "[{'Position': [100, 201, 300, 400], 'Confidence': 1}, {'Position': [1, 2", 0.995, 1),  # cut
        (ONE, "[{'Position': [100, 201, 300, 400], 'Confidence': 'x'}]", 0.995, 0),
        (ONE, "[{'Position': [100, 201, 300, 400], 'Confidence': NaN}]", 0.995, 0),
        (TWO, "[{'Position': [10, 21, 110, 120], 'Confidence': 1}]", 0.495, 1),
        (
            TWO,
            "[{'Position': [10, 21, 110, 120], 'Confidence': 1}, {'Position': [10, 21, 110, 120], 'Confidence': 1}]",
            0.495,  # the same box twice counts once
            1,
        ),
        (ONE, "[{'Position': [100, 201, 300], 'Confidence': 1}]", 0, 0),
        (ONE, "[" * 5000, 0, 0),
        (ONE, "[{'Position': [0, 201, 190, 400], 'Confidence': 0.7}]", 0, 0.3),  # IoU below one half is a miss
        (ONE, "[{'Position': [100, 300, 300, 400], 'Confidence': 0.7}]", 0, 0.3),  # so is one of exactly one half
        (
            ONE,
            "[{'Position': [100, 201, 300, 400], 'Confidence': 0.8}, "
            "{'Position': [100, 201, 300, 400], 'Confidence': 0.3}]",
            0.995,
            0.8,  # of the same box twice the first stands
        ),
        (
            ONE,
            "[{'Position': [100, 250, 300, 400], 'Confidence': 1}, "
            "{'Position': [100, 201, 300, 400], 'Confidence': 1}]",
            0.375,
            0.5,  # of boxes as sure as each other the first takes the gold box
        ),
    ],
)
def test_detection(gold: str, answer: str, iou: float, confidence: float) -> None:
    parts = reward("detection", gold, f"<answer>{answer}</answer>").parts
    assert parts["iou"] == pytest.approx(iou, abs=1e-6)
    assert parts["confidence"] == pytest.approx(confidence)
    assert metric("detection", gold, f"<answer>{answer}</answer>") == parts["iou"]


# --- never by default -------------------------------------------------------------------------------------------------


class Unpublished(Task):
    name = "unpublished"

    def ask(self, sample: Sample, views: object) -> str:
        return ""

    def read(self, answer: str, sample: Sample, views: object) -> str:
        return answer

    def score(self, answer: str, sample: Sample, views: object) -> dict[str, float]:
        return {"correct": 1.0}


def test_task_without_a_published_scorer() -> None:
    with pytest.raises(ValueError, match=naming("unpublished", "scorer")):
        score_completion(Unpublished(), make_sample("unpublished", "4"), "", [GRID], scorer="legacy")


def test_weights_of_the_published_rewards_are_one() -> None:
    assert set(TASKS) == {"choice", "classification", "counting", "detection", "geometry", "grounding"}
    for task in TASKS.values():
        assert set(task_weights(task, "legacy").values()) == {1.0}
    weighted = score_completion(
        TASKS["counting"], make_sample("counting", "4"), "<answer>4</answer>", [GRID], {"accuracy": 0.5}, "legacy"
    )
    assert weighted == Reward(0.5, {"accuracy": 1.0, "format": 0.0}, "ok", main=1.0)
