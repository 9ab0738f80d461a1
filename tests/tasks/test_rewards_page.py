"""The table of accepted and refused spellings in docs/rewards.md is what the code says.

``python -m tests.tasks.test_rewards_page`` writes it anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.records import ImageView, Sample
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
BEGIN, END = "<!-- spellings -->\n", "<!-- end of spellings -->"
VIEW = ImageView(1000, 1000, 1000, 1000, "grid_1000")
SIDES: dict[str, Any] = {"options": ["left", "right"]}
FLOWERS: dict[str, Any] = {"options": ["rose", "lenten rose", "desert-rose", "pink primrose"]}
AIRCRAFT: dict[str, Any] = {"options": ["737-800", "737-900", "A320"]}
BOX, TWO = "[100, 100, 500, 500]", "[[100, 100, 500, 500], [500, 500, 900, 900]]"


@dataclass(frozen=True)
class Row:
    task: str
    gold: str
    accepted: list[str]
    refused: list[str]
    meta: dict[str, Any] = field(default_factory=dict)

    def score(self, answer: str) -> float:
        sample = Sample("row", self.task, ("p.png",), "What is asked?", self.gold, self.meta)
        task = TASKS[self.task]
        text = f"<think></think><answer>{answer}</answer>"
        return score_completion(task, sample, text, [VIEW]).parts[task.main_part]

    def line(self) -> str:
        options = f" of {', '.join(self.meta['options'])}" if self.meta else ""
        cells = [
            f"`{self.task}`",
            code(self.gold) + options,
            *(", ".join(map(code, each)) for each in (self.accepted, self.refused)),
        ]
        return f"| {' | '.join(cells)} |\n"


def code(text: str) -> str:
    shown = text.replace("\n", "·").replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


ROWS = [
    Row(
        "counting",
        "4",
        ["four", "4.0", "4 red cubes", "There are 4.", "**4**", "2+2=4", "4 (2 red, 2 blue)", "共4个", "４"],
        [
            "4 or 5",
            "more than 4",
            "4 of 10",
            "4.5",
            "2+3=4",
            "4 dozen",
            "4-legged cats",
            "3 cats and a dog",
            "4 kg",
            "٤",
            "4²",
        ],
    ),
    Row("counting", "1000", ["1,000", "one thousand"], ["1.000", "1,00"]),
    Row("counting", "1200", ["twelve hundred", "1,200"], ["12 hundred", "twelve or 1200"]),
    Row("counting", "0", ["none", "nothing", "There are no cats.", "没有"], ["no idea", "nothing but cats"]),
    Row(
        "geometry",
        "30°",
        ["30", "30 degrees", r"$\boxed{30^\circ}$", "x = 30", "∠A is 30°", "30° (since both sides are equal)"],
        ["30 cm", "30 or 60", "x = 30, y = 60", "at least 30", "30x", "30 30"],
    ),
    Row(
        "geometry",
        "5√2",
        [r"5\sqrt{2}", "√50", "10/√2", "5*2^0.5", r"5\sqrt{2} \approx 7.07", "7.07106781186"],
        ["7.07", "5", "√2·50", "5√2 or 7"],
    ),
    Row(
        "geometry",
        r"\frac{3}{2}",
        ["1.5", "1 1/2", "1½", r"\frac32", "6:4", "150%", "3/2 (1.5)"],
        ["1.50001", "3 2", "2/3", "3/2 (1.6)"],
    ),
    Row("geometry", "5 m", ["500 cm", "5", "5米"], ["5 cm", "5 m²", "5 s"]),
    Row("geometry", "6 ft", ["6'", '72"', "6 feet"], ['6"', "6 m", "72'"]),
    Row("geometry", "30°", ["1800'", "30°0'"], ["30'", "30°30'"]),
    Row("geometry", "5", ["5 dollars", "5 kg", r"5~\text{cm}"], ["$5", "5°C", "5 M", "5^", "5..", "~5", "when x = 5"]),
    Row("geometry", "$5", ["5 dollars", "500 cents", "5"], ["€5", "5 cents", "5 cm"]),
    Row("geometry", "2 years", ["24 months"], ["2 months", "2 days"]),
    Row("geometry", "50", ["50%"], ["5000%", "0.5"]),
    Row("geometry", "0.5", ["50%"], ["0.5%"]),
    Row("geometry", "(3,-2)", ["(3.0, −2)", "（3，-2）", "P = (3, -2)"], ["(-2, 3)", "[3, -2]", "3, -2"]),
    Row("geometry", "(3,400)", ["(3, 400)"], ["3400", "1,200", "3,400"]),
    Row("geometry", "B", ["(B)", "B. 30°", "Option B", "故选：B"], ["A, B", "not B", "A. 30° B. 40°"]),
    Row(
        "choice",
        "B",
        ["[B]", "B、", "B.right", "B, right", "Option B: right", "The right.", "right (B)", "**B.** right"],
        ["A. right", "A or B", "left or right", "rights", "not B"],
        SIDES,
    ),
    Row(
        "choice",
        "B",
        ["45", r"B. $45^\circ$", "45 degrees"],
        ["A. 45°", "40", "30° or 45°"],
        {"options": ["30°", "45°"]},
    ),
    Row(
        "classification",
        "rose",
        ["a rose", "Roses", "This is a rose.", "rose (Rosa)"],
        ["primrose", "lenten rose", "rose or tulip", "rosebush"],
        FLOWERS,
    ),
    Row(
        "classification",
        "737-800",
        ["Boeing 737-800", "737–800", "B737-800"],
        ["737", "A737-800", "737-900", "737-800-200", "Airbus 737-800", "Boeing 737-800 or A320"],
        AIRCRAFT,
    ),
    Row(
        "classification",
        "BAE 146-200",
        ["146-200", "British Aerospace 146-200"],
        ["146", "BAE 146-300", "Boeing 146-200"],
        {"options": ["BAE 146-200", "BAE 146-300", "MD-11"]},
    ),
    Row(
        "classification", "MD-11", ["McDonnell Douglas MD-11"], ["MD-11-900", "MD-80"], {"options": ["MD-11", "MD-80"]}
    ),
    Row("classification", "tiger lily", ["Tiger-Lily", "the tiger lilies"], ["tiger, lily", "lily", "tiger/lily"]),
    Row(
        "grounding",
        BOX,
        [
            "(100,100),(500,500)",
            "100, 100, 500, 500",
            "<box>100 100 500 500</box>",
            '{"bbox_2d": [100, 100, 500, 500]}',
            "<|box_start|>(100,100),(500,500)<|box_end|>",
            "The box is [100, 100, 500, 500].",
        ],
        ["[100, 100, 500]", f"{BOX} or [0, 0, 900, 900]", f"{BOX}, [0, 0, 9, 9]", "[500, 500, 100, 100]", f"{BOX} x"],
    ),
    Row(
        "grounding",
        TWO,
        ["[100, 100, 500, 500], [500, 500, 900, 900]", "1. [100, 100, 500, 500]\n2. [500, 500, 900, 900]"],
        ["[100, 100, 500, 500] or [500, 500, 900, 900]"],
    ),
    Row(
        "detection",
        BOX,
        [
            "[{'Position': [100, 100, 500, 500], 'Confidence': '90%'}]",
            '[{"bbox_2d": [100, 100, 500, 500], "score": 0.9}]',
        ],
        ["[{'Position': [100, 100, 500, 500], 'Confidence': 5}]", "No Objects [100, 100, 500, 500]"],
    ),
    Row("detection", "No Objects", ["No objects found.", "None", "[]"], ["maybe none", "[0, 0, 9, 9]"]),
]


def table() -> str:
    head = "| task | gold | accepted | refused |\n|---|---|---|---|\n"
    return head + "".join(row.line() for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.task}-{row.gold[:20]}")
def test_the_table_is_what_the_code_says(row: Row) -> None:
    assert {answer: row.score(answer) for answer in row.accepted} == dict.fromkeys(row.accepted, 1.0)
    assert {answer: row.score(answer) for answer in row.refused} == dict.fromkeys(row.refused, 0.0)


def test_the_page_holds_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table()


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
