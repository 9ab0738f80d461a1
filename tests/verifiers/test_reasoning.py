from __future__ import annotations

from dataclasses import replace

import pytest

from gpg_vl.records import Prompt, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion
from gpg_vl.verifiers.answers import MAX_CHARS, find_answer, read_completion
from gpg_vl.verifiers.reasoning import completion_text, continue_prompt, in_plain_tags
from tests.support.builders import make_encoded, make_sample


@pytest.mark.parametrize(
    ("ending", "text", "read"),
    [
        ("", "<think>a</think>4", "<think>a</think>4"),
        ("<think>", "a</think>4", "<think>a</think>4"),
        ("<think>\n", "a</think>4", "<think>\na</think>4"),
        ("<think>\n", "<think>a</think>4", "<think>a</think>4"),
        ("<think>\n\n</think>\n\n", "4", "<think>\n\n</think>\n\n4"),
        ("<think>\n\n</think>\n\n", "\n<think>a</think>4", "\n<think>a</think>4"),
        ("<think> is a tag\n", "4", "4"),
        ("</think>\n", "4", "4"),
        ("<|channel>thought\n", "a<channel|>4", "<|channel>thought\na<channel|>4"),
        ("<|channel>thought\n", "<|channel>thought\na<channel|>4", "<|channel>thought\na<channel|>4"),
        ("<|channel>thought\n<channel|>", "<think>a</think>4", "<|channel>thought\n<channel|><think>a</think>4"),
        ("[THINK]", "<think>a</think>4", "[THINK]<think>a</think>4"),
    ],
)
def test_a_completion_has_the_reasoning_that_its_prompt_opened(ending: str, text: str, read: str) -> None:
    prompt = Prompt(Sample("a", "t", (), "q", "4"), f"assistant\n{ending}", make_encoded(), ())
    assert completion_text(prompt, text) == read


@pytest.mark.parametrize(
    ("ending", "written", "rest"),
    [
        ("", "<think>a</think>4", "<think>a</think>4"),
        ("<think>", "<think>a</think>4", "a</think>4"),
        ("<think>\n", "<think>a</think>4", "a</think>4"),
        ("<think>\n\n</think>\n\n", "<think></think>4", "4"),
        ("<think>\n\n</think>\n\n", "<think>a</think>4", "<think>a</think>4"),
        ("<|channel>thought\n", "<think>a</think>4", "a<channel|>4"),
        ("<|channel>thought\n<channel|>", "<think></think>4", "4"),
        ("[THINK]", "<think>a</think>4", "a[/THINK]4"),
    ],
)
def test_a_written_completion_goes_on_from_its_prompt(ending: str, written: str, rest: str) -> None:
    assert continue_prompt(f"assistant\n{ending}", written) == rest


TWICE = "a{close}<think>b</think><answer>4</answer>"


@pytest.mark.parametrize(
    ("ending", "closing"),
    [
        ("<think>\n", "</think>"),
        ("<think>", "</think>"),
        ("<|channel>thought\n", "<channel|>"),
        ("[THINK]", "[/THINK]"),
    ],
)
def test_whoever_thinks_as_its_template_opened_may_think_again_as_asked(ending: str, closing: str) -> None:
    """Alike in all families; a plain prompt opens the reasoning that it asks for, which stands once."""
    chat = Prompt(Sample("a", "t", (), "q", "4"), f"assistant\n{ending}", make_encoded(), (), (("user", "q"),))
    twice = TWICE.format(close=closing)
    for written in (twice, ending + twice):
        read = completion_text(chat, written)
        assert find_answer(read) == "4" and read_completion(read) == ("4", True)
        assert "a" in read.partition("<think>b")[0], "what the model thought is kept"
        boxed = read.replace("<answer>", "\\boxed{").replace("</answer>", "}")
        assert read_completion(boxed, "boxed") == ("4", True)
    for rest in (
        "<think>b</think><think>c</think><answer>4</answer>",
        "so <think>b</think><answer>4</answer>",
        "<think>",
    ):
        assert not read_completion(completion_text(chat, f"a{closing}{rest}"))[1]
    plain = replace(chat, text="Assistant: <think>", messages=())
    assert not read_completion(completion_text(plain, TWICE.format(close="</think>")))[1]


NATIVE = [("<|channel>thought\n", "<channel|>"), ("[THINK]", "[/THINK]"), ("<think>", "</think>")]
WHOLE = [
    ("{open}2 + 2{close}<answer>4</answer>", "4", True),
    (" {open}{close}\n<answer>4</answer>\n", "4", True),
    ("{open}<answer>3</answer>?{close}<answer>4</answer>", "4", False),
    ("{open}a{close}<think>b</think><answer>4</answer>", "4", None),
    ("Sure. {open}a{close}<answer>4</answer>", "4", False),
    ("{open}2 + 2<answer>4</answer>", None, False),
    ("<answer>4</answer>{open}so", None, False),
    ("{open}a{close}<answer>4</answer>{open}b", None, False),
    ("{open}a{close}<answer>3</answer><answer>4</answer>", None, False),
    ("{open}a{close}4", None, False),
]


@pytest.mark.parametrize(("opening", "closing"), NATIVE, ids=["channel", "brackets", "the kit's"])
@pytest.mark.parametrize(("text", "answer", "is_format"), WHOLE)
def test_reasoning_is_read_alike_in_the_tags_of_every_family(
    text: str, answer: str | None, is_format: bool | None, opening: str, closing: str
) -> None:
    """None: a model that has other tags than the kit's may think in both, its own first."""
    written = text.format(open=opening, close=closing)
    assert find_answer(written) == answer
    assert read_completion(written)[1] is (opening != "<think>" if is_format is None else is_format)
    boxed, kits = (
        each.replace("<answer>", "\\boxed{").replace("</answer>", "}")
        for each in (written, text.format(open="<think>", close="</think>"))
    )
    assert find_answer(boxed, "boxed") == find_answer(kits, "boxed")


@pytest.mark.parametrize("closing", ["", "</think>", "[/THINK]"])
def test_reasoning_that_is_closed_in_other_tags_is_open(closing: str) -> None:
    written = f"<|channel>thought 2 + 2{closing}<answer>4</answer>"
    for answer_in in ("tags", "boxed"):
        assert find_answer(written, answer_in) is None  # type: ignore[arg-type]
        assert not read_completion(written, answer_in)[1]  # type: ignore[arg-type]
    mentioned = "<think>Not [THINK] nor <|channel>thought.</think><answer>4</answer>"
    assert in_plain_tags(mentioned) == mentioned
    assert find_answer("<think>a<channel|><answer>4</answer>") is None


BOX = "<|begin_of_box|>{}<|end_of_box|>"


@pytest.mark.parametrize(
    ("conclusion", "answer", "in_tags"),
    [
        (BOX.format(4), "4", True),
        (f"<answer>{BOX.format(' 4 ')}</answer>", "4", True),
        (f"<answer>Two and two: {BOX.format(4)}</answer>", "4", True),
        (f"It is {BOX.format(4)}.", "4", False),
        (f"<answer>3</answer>{BOX.format(4)}", None, False),
        (f"<answer>{BOX.format(3)}{BOX.format(4)}</answer>", None, True),
        (f"{BOX.format(3)}{BOX.format(4)}", None, False),
        (BOX.format(" "), None, False),
        ("<|begin_of_box|>4", None, False),
        ("4<|end_of_box|>", None, False),
        ("<|end_of_box|>4<|begin_of_box|>", None, False),
    ],
)
def test_an_answer_in_the_models_own_box(conclusion: str, answer: str | None, in_tags: bool) -> None:
    written = f"<think>{BOX.format(7)}?</think>{conclusion}"
    assert find_answer(written) == answer
    assert read_completion(written)[1] is in_tags
    assert find_answer(f"<think>{conclusion}") is None


@pytest.mark.parametrize(("written", "answer"), [(BOX.format(4), "4"), ("\\boxed{" + BOX.format(4) + "}", "4")])
def test_an_answer_that_was_asked_for_in_a_box(written: str, answer: str) -> None:
    assert find_answer(f"<think>a</think>So {written}.", "boxed") == answer
    assert read_completion(f"<think>a</think>So {written}.", "boxed")[1]
    assert find_answer(f"<think>a {written}", "boxed") is None


def test_every_task_scores_a_family_in_its_own_tags_as_in_the_kits() -> None:
    kits = "<think>so</think><answer>{}</answer>"
    own = "<|channel>thought\nso\n<channel|>" + BOX
    for name, gold in {"counting": "4", "geometry": "4", "choice": "A"}.items():
        sample = make_sample(task=name, answer=gold)
        for answer in (gold, "9", ""):
            one, other = (score_completion(TASKS[name], sample, each.format(answer), ()) for each in (kits, own))
            assert one == other
    assert one.parts == {"correct": 0.0, "format": 0.0}


def test_long_and_hostile_texts() -> None:
    long = "<|channel>thought" + "x" * MAX_CHARS + "<channel|><think></think><answer>4</answer>"
    assert find_answer(long) is None
    assert not read_completion(long)[1]
    for piece in ("<|channel>thought", "<channel|>", "[THINK]", "[/THINK]<think>", BOX.format("")):
        assert find_answer((piece * MAX_CHARS)[:MAX_CHARS]) is None
