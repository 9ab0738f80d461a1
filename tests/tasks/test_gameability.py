"""What nobody should earn by, on every task under the strict scorer.

No reward above an honest wrong answer's; a well-formed box earns exactly its overlap; nothing takes long.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpg_vl.records import ImageView, Reward, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import gold_completion, score_completion
from tests.support.clock import holds_for_seconds, is_below, takes_less_than

GRID = ImageView(640, 480, 644, 476, "grid_1000")
PIXELS = ImageView(640, 480, 320, 240, "resized_pixels")
FORMAT_WEIGHT = 0.2
MAX_SECONDS = 0.05


def make_sample(task: str, answer: str, **meta: object) -> Sample:
    return Sample(f"{task}-1", task, ("picture.png",), "What is asked? (A) left (B) right", answer, meta)


NAMES = ("rose", "lenten rose")
SAMPLES = [
    make_sample("counting", "4"),
    make_sample("geometry", "8√{3}cm"),
    make_sample("geometry", "9"),
    make_sample("geometry", "B"),
    make_sample("geometry", "1/(1+√2)"),
    make_sample("grounding", "[64, 48, 320, 240]"),
    make_sample("grounding", "[[64, 48, 320, 240], [320, 240, 640, 480]]"),
    make_sample("detection", "[{'Position': [64, 48, 320, 240], 'Confidence': 1}]"),
    make_sample("detection", "[[64, 48, 320, 240], [320, 240, 640, 480]]"),
    make_sample("detection", "No Objects"),
    make_sample("classification", "rose"),
    make_sample("classification", "2012 Audi A5 Coupe"),
    make_sample("choice", "B"),
    make_sample("choice", "right", options=["left", "right"]),
    make_sample("choice", "(A)", choices=["4", "5", "6"]),
    make_sample("classification", "class 7 rose", options=[f"class {n} {name}" for n in range(98) for name in NAMES]),
    make_sample("choice", "C", options=[f"{n} red cubes and {n + 1} blue ones" for n in range(26)]),
]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.task}-{sample.answer}")

# An answer that is honest and wrong for every sample above.
WRONG = {
    "counting": "77",
    "geometry": "77",
    "grounding": "[900, 10, 990, 90]",
    "detection": "[{'Position': [900, 10, 990, 90], 'Confidence': 0.9}]",
    "classification": "tulip",
    "choice": "up",
}
HOSTILE = {
    "empty": "",
    "space": " ",
    "nan": "nan",
    "NaN in a list": "[NaN, NaN, NaN, NaN]",
    "infinity": "1e999",
    "infinite box": "[0, 0, 1e999, 1e999]",
    "infinite confidence": "[{'Position': [1, 2, 3, 4], 'Confidence': 1e999}]",
    "huge number": "9" * 5000,
    "huge box": "[0, 0, 999999999, 999999999]",
    "huge exponent": "9^9^9^9",
    "tower of powers": "9^{9^{9^{9}}}",
    "factorial": "99999!",
    "large power": "10^99999999",
    "roots": "√(" * 200 + "2" + ")" * 200,
    "product of sums": "*".join(["((1+√2)(1+√3)(1+√5)(1+√7)(1+√11))"] * 13),
    "product of long sums": "*".join(["((123456789+√2)(7/9+√3)(987654321+√5)(1/7+√7)(1+√11))"] * 9),
    "nested brackets": "[" * 4000,
    "nested objects": '{"a":' * 4000,
    "closed brackets": "[" * 4000 + "]" * 4000,
    "parentheses": "(" * 500,
    "inverted box": "[1000, 1000, 0, 0]",
    "inverted gold": "[500, 500, 100, 100]",
    "inverted corners": "(500,500),(100,100)",
    "inverted soft tokens": "<|box_start|>(1000,1000),(0,0)<|box_end|>",
    "flat box": "[0, 0, 0, 0]",
    "outside": "[-500, -500, 500, 500]",
    "thousands of boxes": "[" + "[100, 100, 500, 500], " * 2000 + "[100, 100, 500, 500]]",
    "many boxes unlisted": "[100, 100, 500, 500] " * 2000,
    "many soft tokens": "<|box_start|>(100,100),(500,500)<|box_end|>" * 1000,
    "confidence above one": "[{'Position': [100, 100, 500, 500], 'Confidence': 5}]",
    "negative confidence": "[{'Position': [900, 10, 990, 90], 'Confidence': -3}]",
    "miss without confidence": "[{'Position': [900, 10, 990, 90], 'Confidence': 0}]",
    "two answers": "4 or 5, 8√3 or 9, left or right, rose or tulip",
    "either box": "[100, 100, 500, 500] or [500, 500, 1000, 1000]",
    "two letters": "A B",
    "all letters": "(A) (B) (C) (D)",
    "all numbers": " ".join(map(str, range(1000))),
    "all classes": "rose, tulip, pink primrose, 2012 Audi A5 Coupe",
    "part of a name": "2012",
    "name within": "pink primrose",
    "letter of a name": "o",
    "digits of two widths": "4４",
    "hidden joiner": "4\u2060",
    "circled digit": "④",
    "arabic digits": "٤",
    "superscript": "⁴",
    "unicode box": "[１００, 100, 500, 500]",
    "zero width": "4\u200b",
    "zero width name": "ro\u200bse",
    "zero width letter": "\u200bB",
    "prompt": "What is asked? (A) left (B) right",
    "64 kB": "x" * 65_000,
    "64 kB of digits": "4" * 65_000,
    "64 kB of spaces": "[" + " " * 65_000 + "1",
    "64 kB of commas": "[1" + ", 1" * 20_000 + "]",
    "quotes": "'\"" * 10_000,
    "fences": "```json" * 1000 + "```",
}


def wrap(answer: str) -> str:
    return f"<think></think><answer>{answer}</answer>"


def timed_score(sample: Sample, text: str, view: ImageView = GRID) -> Reward:
    task = TASKS[sample.task]
    score_completion(task, sample, wrap("3^2"), [view])  # warm
    assert takes_less_than(MAX_SECONDS, lambda: score_completion(task, sample, text, [view]))
    return score_completion(task, sample, text, [view])


@every_sample
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_earn_no_more_than_a_wrong_one(sample: Sample, name: str) -> None:
    wrong = timed_score(sample, wrap(WRONG[sample.task]))
    assert wrong.total <= FORMAT_WEIGHT
    for view in (GRID, PIXELS):
        reward = timed_score(sample, wrap(HOSTILE[name]), view)
        assert 0 <= reward.total <= FORMAT_WEIGHT
        assert all(value == 0 for part, value in reward.parts.items() if part != "format")


@every_sample
def test_hostile_completions_earn_nothing(sample: Sample) -> None:
    task = TASKS[sample.task]
    gold = task.gold(sample, [GRID])
    request = task.ask(sample, [GRID])
    for text in [
        "",
        gold,
        request,
        f"<think>{gold}</think>",
        f"<think>{gold}</think><answer></answer>",
        f"{wrap(gold)}<answer>{gold}</answer>",
        f"{wrap(gold)}{wrap(gold)[15:]}",
        f"<think></think><answer>{gold}</answer><answer>{WRONG[sample.task]}</answer>",
        f"<answer>{gold}</answer><think></think>",
        f"<think></think><answer><answer>{gold}</answer></answer>",
        f"<think>{'x' * 65_536}</think><answer>{gold}</answer>",
        "<answer>" * 8000,
        "<think></think>" * 4000,
        "<answer></answer>" * 3800,
        f"<answer>{gold}</answer>" * 200,
    ]:
        assert timed_score(sample, text).total == 0, text[:80]


@every_sample
def test_gold_in_the_reasoning_earns_nothing(sample: Sample) -> None:
    gold = TASKS[sample.task].gold(sample, [GRID])
    reward = timed_score(sample, f"<think>it is {gold}</think><answer>{WRONG[sample.task]}</answer>")
    assert reward.total <= FORMAT_WEIGHT


@every_sample
def test_gold_earns_full_marks_and_nothing_more_does(sample: Sample) -> None:
    task = TASKS[sample.task]
    task.check(sample)
    reward = score_completion(task, sample, gold_completion(task, sample, [GRID]), [GRID])
    assert reward.total == pytest.approx(sum(task.weights.values()), abs=0.02)
    assert all(value <= 1 for value in reward.parts.values())


@pytest.mark.parametrize("answer", ["[0, 0, 1000, 1000]", "(0,0),(1000,1000)", "[[0, 0, 1000, 1000]]"])
def test_whole_image_earns_exactly_its_overlap(answer: str) -> None:
    share = (256 * 192) / (640 * 480)
    reward = timed_score(make_sample("grounding", "[64, 48, 320, 240]"), wrap(answer))
    assert reward.parts["iou"] == pytest.approx(share)
    detected = timed_score(make_sample("detection", "[64, 48, 320, 240]"), wrap(answer))
    assert detected.parts == {"iou": pytest.approx(share), "confidence": -1, "format": 1}


def test_surplus_and_missing_boxes_cost_alike() -> None:
    one, two = "[64, 48, 320, 240]", "[[64, 48, 320, 240], [320, 240, 640, 480]]"
    both, first = "[[100, 100, 500, 500], [500, 500, 1000, 1000]]", "[100, 100, 500, 500]"
    assert timed_score(make_sample("grounding", one), wrap(both)).parts["iou"] == pytest.approx(0.5)
    assert timed_score(make_sample("grounding", two), wrap(first)).parts["iou"] == pytest.approx(0.5)
    twice = f"[{first}, {first}]"
    assert timed_score(make_sample("grounding", two), wrap(twice)).parts["iou"] == pytest.approx(0.5)


@pytest.mark.parametrize("sample", SAMPLES[7:9], ids=["one", "two"])
def test_confidence_never_pays_for_a_miss(sample: Sample) -> None:
    for confidence in (0, 0.3, 1):
        answer = f"[{{'Position': [900, 10, 990, 90], 'Confidence': {confidence}}}]"
        most = 2 if sample is SAMPLES[8] else 1
        assert timed_score(sample, wrap(answer)).parts["confidence"] == pytest.approx(-(confidence**2) / most)


def test_confidence_is_best_told_as_it_is() -> None:
    sample = make_sample("detection", "[64, 48, 320, 240]")

    def part(box: str, confidence: float) -> float:
        answer = f"[{{'Position': {box}, 'Confidence': {confidence}}}]"
        return timed_score(sample, wrap(answer)).parts["confidence"]

    hit = "[100, 100, 500, 500]"
    assert [part(hit, c) for c in (0, 0.5, 1)] == [0, pytest.approx(0.75), 1]


PIECES = [
    "[",
    "[1,",
    " ",
    "[1, 2, 30, 40],",
    "9",
    "(1,2),",
    "<answer>",
    "<think>",
    "{'Position': [1, 2, 3, 4]},",
    "\u200b",
]
PIECES += [
    "<box>",
    "{'bbox': ",
    "the cat [1, 2, 3, 4] and ",
    "**",
    "\\boxed{",
    "$",
    "1+",
    "four ",
    "one hundred ",
    "x = ",
    "是",
]
PIECES += [
    "sin ",
    "0.\\dot",
    "The answer is ",
    "B. ",
    "rose ",
    "½",
    "三",
    "=",
    "≈",
    "1:",
    "((1+√2)",
    "^",
    "2^",
    "\u3000",
    "°",
]
PIECES += ["√(", "a ", "(A) ", "<|box_start|>", "<|box_start|>(1,2),(3,4)<|box_end|>", "'", "\\frac{1}", "\n", "```"]


each_reader = pytest.mark.parametrize(
    "sample", [SAMPLES[n] for n in (0, 1, 5, 7, 10, 12, 15, 16)], ids=lambda sample: f"{sample.task}-{len(sample.meta)}"
)


@pytest.mark.parametrize("piece", PIECES)
@each_reader
@pytest.mark.parametrize("closed", [True, False], ids=["answered", "open"])
def test_time_grows_no_faster_than_the_text(sample: Sample, piece: str, closed: bool) -> None:
    def score(length: int) -> None:
        body = (piece * length)[:length]
        score_completion(TASKS[sample.task], sample, wrap(body) if closed else body, [GRID])

    score_completion(TASKS[sample.task], sample, wrap("3^2"), [GRID])
    assert holds_for_seconds(  # the clock and the collector add some
        lambda half, whole: is_below(whole, MAX_SECONDS) and whole <= 2 * half + 0.005, (32_000, 64_000), score
    )


LENGTHS = (255, 399, 511, 1023, 32_767)
"""Up to the limits of each reader, where it does the most work, and beyond them."""


@pytest.mark.parametrize("piece", PIECES)
@each_reader
def test_no_length_takes_long(sample: Sample, piece: str) -> None:
    for before, after in (("", ""), ("[", "]"), ("x = ", "4")):
        for length in LENGTHS:
            timed_score(sample, wrap(before + (piece * length)[: length - len(before + after)] + after))


@each_reader
@given(st.lists(st.sampled_from(PIECES), min_size=2, max_size=4), st.sampled_from(LENGTHS))
@settings(max_examples=100, deadline=None)
def test_no_mixture_takes_long(sample: Sample, pieces: list[str], length: int) -> None:
    timed_score(sample, wrap(("".join(pieces) * length)[:length]))


@given(st.lists(st.text(max_size=40), max_size=6), st.randoms(use_true_random=False), st.sampled_from(SAMPLES))
def test_score_does_not_depend_on_the_order_of_completions(texts: list[str], random: object, sample: Sample) -> None:
    completions = [wrap(text) for text in [*texts, WRONG[sample.task], TASKS[sample.task].gold(sample, [GRID])]]
    task = TASKS[sample.task]
    expected = {text: score_completion(task, sample, text, [GRID]) for text in completions}
    random.shuffle(completions)  # type: ignore[attr-defined]
    for text in completions:
        assert score_completion(task, sample, text, [GRID]) == expected[text]


@given(st.text(max_size=200), st.sampled_from(SAMPLES), st.sampled_from([GRID, PIXELS]))
def test_any_text_earns_between_nothing_and_full_marks(text: str, sample: Sample, view: ImageView) -> None:
    task = TASKS[sample.task]
    reward = score_completion(task, sample, wrap(text), [view])
    assert 0 <= reward.total <= sum(task.weights.values())
    assert all(0 <= value <= 1 for value in reward.parts.values())
