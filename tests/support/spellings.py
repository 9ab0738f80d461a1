"""Grammars of the spellings of a task's values: forms of a value, and frames around a form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion

VIEW = ImageView(1000, 1000, 1000, 1000, "grid_1000")
CLASSES = [
    "rose",
    "lenten rose",
    "desert-rose",
    "american_bulldog",
    "737-800",
    "2012 Audi A5 Coupe",
    "sweet pea",
    "beagle",
]
OPTIONS = ["left", "right", "45°", "2 meters", "a red chair"]
LETTERS = "ABCDE"
WRAPPED = [
    *(
        "{}",
        " {} ",
        "**{}**",
        "*{}*",
        "__{}__",
        "`{}`",
        '"{}"',
        "“{}”",
        "「{}」",
        "\\boxed{{{}}}",
        "\\text{{{}}}",
        "{}.",
        "{}。",
    ),
    *("\\({}\\)", "\\[{}\\]", "${}$", "$${}$$", "$\\boxed{{{}}}$", "**{}**.", "```\n{}\n```", "\\displaystyle {}"),
]
LABELLED = [
    *(
        "Answer: {}",
        "The answer is {}.",
        "**Answer:** {}",
        "The final answer is **{}**.",
        "So the answer is {}",
        "答案：{}",
        "答案是{}。",
    ),
]
FRAMES = [*WRAPPED, *LABELLED]
SECOND = [
    "{0} or {1}",
    "{0}, {1}",
    "{0} and {1}",
    "{0}\n{1}",
    "{1} or {0}",
    "{0}; {1}",
    "either {0} or {1}",
    "{0} ({1})",
    "not {1} but {0}",
    "{0} {1}",
]


@dataclass(frozen=True, repr=False)
class Grammar:
    task: str
    values: st.SearchStrategy[Any]
    forms: list[Callable[[Any], str]]
    frames: list[str]
    meta: dict[str, Any]
    seconds: list[str]
    question: str = "What is asked?"

    def correct(self, answer: str, gold: str) -> float:
        sample = Sample("row", self.task, ("p.png",), self.question, gold, self.meta)
        text = f"<think></think><answer>{answer}</answer>"
        task = TASKS[self.task]
        return score_completion(task, sample, text, [VIEW]).parts[task.main_part]


WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def fixed(*templates: str) -> list[Callable[[Any], str]]:
    return [lambda value, template=template: template.format(value) for template in templates]


def words(number: int) -> str:
    """Below 10,000, in English."""
    high, low = divmod(number, 1000)
    if high:
        return f"{words(high)} thousand" + (f"{' and' if low < 100 else ''} {words(low)}" if low else "")
    high, low = divmod(number, 100)
    if high:
        return f"{words(high)} hundred" + (f" and {words(low)}" if low else "")
    if number < 20:
        return WORDS.split()[number]
    return TENS.split()[number // 10 - 2] + (f"-{WORDS.split()[number % 10]}" if number % 10 else "")


def chinese(number: int) -> str:
    """Below 10,000, in Chinese."""
    digits = "零一二三四五六七八九"
    if 10 <= number < 20:
        return "十" + (digits[number - 10] if number > 10 else "")
    text, skipped = "", False
    for size, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // size % 10
        text += ("零" if skipped and text else "") + digits[digit] + unit if digit else ""
        skipped = not digit
    return text or "零"


def wide(number: int) -> str:
    return "".join(chr(ord(char) + 0xFEE0) for char in str(number))


COUNTING = Grammar(
    "counting",
    st.integers(0, 19) | st.integers(20, 9999),
    [
        *fixed(
            "{}",
            "{}.0",
            "{} objects",
            "{} red cubes",
            "There are {} cubes in the image",
            "{}个",
            "共{}个",
            "({})",
            "[{}]",
            "{} cubes in total",
        ),
        *fixed(
            "A total of {}",
            "I count {} shapes",
            "The number of cubes is {}",
            "In total, there are {} objects",
            "图中有{}个球",
            "{0} ({0})",
        ),
        words,
        lambda n: f"{n:,}",
        lambda n: words(n).capitalize(),
        lambda n: f"{words(n)} ({n})",
        lambda n: f"{n} ({words(n)})",
        lambda n: f"There are {words(n)} blue spheres",
        lambda n: f"1 + {n - 1} = {n}" if n > 1 else str(n),
        lambda n: f"1 red and {n - 1} blue, {n} in total" if n > 1 else str(n),
        lambda n: f"{n} (1 red, {n - 1} blue)" if n > 1 else str(n),
        chinese,
        lambda n: f"{chinese(n)}个",
        wide,
    ],
    FRAMES,
    {},
    [*SECOND, "{0} of {1}", "{0} to {1}", "{0}-{1}", "{0}/{1}", "{0} out of {1}", "{0} plus {1}"],
)

# A value of geometry is whole, with a unit of length.
GEOMETRY = Grammar(
    "geometry",
    st.integers(2, 400),
    [
        *fixed(
            "{}",
            "{}.0",
            "{} cm",
            "{} centimeters",
            "{} 厘米",
            "{} \\text{{ cm}}",
            "x = {}",
            "AB = {} cm",
            "{} (cm)",
            "= {}",
            "\\frac{{{}}}{{1}}",
        ),
        *fixed(
            "The length of AB is {} cm",
            "长度等于{}",
            "{} (since the two sides are equal)",
            "\\sqrt{{{0}}} \\cdot \\sqrt{{{0}}}",
            "{}+0",
            "{}\\,\\mathrm{{cm}}",
        ),
        *fixed(
            "({})",
            "√({0}·{0})",
            "{}0/10",
            "{}:1",
            "{}^1",
            "{}\\quad",
            "{}·10^0",
            "+{}",
            "\\left({}\\right)",
        ),
        lambda n: f"√{n * n}",
        lambda n: f"\\sqrt[3]{{{n**3}}}" if n < 200 else str(n),
        lambda n: f"{2 * n}/2",
        lambda n: f"\\frac{{{3 * n}}}{{3}}",
        lambda n: f"{n - 1} + 1",
        lambda n: f"{2 * n} \\sin 30^\\circ",
        lambda n: f"{n}e0",
        lambda n: f"{n * 10}e-1",
        lambda n: f"{n * n}^{{1/2}}",
        wide,
    ],
    FRAMES,
    {},
    [*SECOND, "{0} = {1}", "({0}, {1})", "{0} \\text{{ or }} {1}", "x = {0}, y = {1}"],
)

CHOICE = Grammar(
    "choice",
    st.integers(0, len(OPTIONS) - 1),
    [
        *[
            lambda n, form=form: form.format(LETTERS[n], OPTIONS[n])
            for form in (
                "{0}",
                "({0})",
                "[{0}]",
                "{0}.",
                "{0})",
                "{0}、",
                "【{0}】",
                "{0}:",
                "Option {0}",
                "Choice {0}",
            )
        ],
        *[
            lambda n, form=form: form.format(LETTERS[n], OPTIONS[n])
            for form in (
                "{1}",
                "{0}. {1}",
                "({0}) {1}",
                "{0}: {1}",
                "{0}, {1}",
                "{0} - {1}",
                "{0}.{1}",
                "{0}\n{1}",
                "{1} ({0})",
            )
        ],
        *[
            lambda n, form=form: form.format(LETTERS[n], OPTIONS[n])
            for form in (
                "Option {0}: {1}",
                "选{0}",
                "{0}选项",
                "I choose {0}",
                "It is {1}",
                "The correct option is ({0})",
                "{0}．{1}",
            )
        ],
        lambda n: LETTERS[n].lower(),
        lambda n: OPTIONS[n].upper(),
        lambda n: OPTIONS[n].capitalize(),
        lambda n: ["the left", "the right", "45 degrees", "200 cm", "red chair"][n],
        lambda n: ["Left", "Right", "$45^\\circ$", "2", "the red chair"][n],
    ],
    FRAMES,
    {"options": OPTIONS},
    SECOND,
)

MODEL_NAMES = {name: name.replace("_", " ") for name in CLASSES}
CLASSIFICATION = Grammar(
    "classification",
    st.sampled_from(CLASSES),
    [
        *fixed(
            "{}",
            "a {}",
            "The {}",
            "an {}",
            "This is a {}",
            "It is the {}",
            "The picture shows a {}",
            "({})",
            "The object in the image is a {}",
        ),
        str.upper,
        str.title,
        lambda name: name.replace("_", " "),
        lambda name: name.replace("_", " ").replace(" ", "-"),
        lambda name: name.replace(" ", "_").replace("-", "_"),
        lambda name: name.replace(" ", "").replace("_", "").replace("-", ""),
        lambda name: {
            "737-800": "Boeing 737-800",
            "beagle": "beagle dog",
            "rose": "roses",
            "sweet pea": "sweet peas",
        }.get(name, name),
        lambda name: {"737-800": "737–800", "american_bulldog": "American Bulldog (dog)"}.get(name, name),
        lambda name: {"2012 Audi A5 Coupe": "Audi A5 Coupe 2012", "737-800": "737 800"}.get(name, name),
        lambda name: {"2012 Audi A5 Coupe": "Audi A5 Coupé, 2012", "rose": "rose (Rosa)"}.get(name, name),
    ],
    FRAMES,
    {"options": CLASSES},
    SECOND,
)
