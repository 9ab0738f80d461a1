"""Completions per second of each task, in one process and through a pool of two: ``python -m benchmarks.scoring``.

Answers are repeated, as the completions of a group repeat each other, or all distinct, so that no cache helps; or every
group has a row of its own, with answers in the commonest spellings.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from gpg_vl.processes.command_line import ScriptParser
from gpg_vl.records import ImageView, Sample
from gpg_vl.rewards.pool import ScoringPool, TaskJob
from gpg_vl.tasks import TASKS
from gpg_vl.tasks.base import score_completion

VIEW = ImageView(640, 480, 644, 476, "resized_pixels")
REASONING = "The picture shows several things; I look at each of them in turn and then say what was asked for."
GROUP = 8
MAKERS = ("Audi", "BMW", "Chevrolet", "Dodge", "Ford", "Honda", "Hyundai")
CARS = [f"{2006 + n % 7} {maker} {model} Sedan" for maker in MAKERS for n, model in enumerate(map(str, range(28)))]
BOXES = [[10 * n, 20, 100 + 10 * n, 200] for n in range(6)]


@dataclass(frozen=True)
class Case:
    """A row, and answers to it: a few that repeat, or the n-th of many; and the n-th of many rows, with its answers."""

    sample: Sample
    repeated: Sequence[str]
    distinct: Callable[[int], str]
    new_row: Callable[[int], tuple[Sample, Sequence[str]]]


Group = tuple[Sample, tuple[str, ...]]
"""A row and completions of it."""
KINDS = ("repeated", "distinct", "new rows")


def detections(move: int) -> str:
    return str([{"Position": [x + move % 7, y + move // 7 % 200, u, v], "Confidence": 0.8} for x, y, u, v in BOXES])


def row(task: str, answer: str, question: str = "What is it?", **meta: object) -> Sample:
    return Sample("row", task, ("picture.png",), question, answer, meta)


WORDS = "left right near far red blue chair table window door lamp shelf above below inside behind front back"


def words(n: int) -> str:
    """Three words and a number, others for each n."""
    known = WORDS.split()
    return f"{known[n % 18]} {known[n // 18 % 18]} {known[n // 324 % 18]} {n}"


def values(n: int) -> list[str]:
    numbers = [f"{n + 1}√3", f"{n}°", f"{n + 2}", f"{n}.5", f"\\frac{{{n}}}{{7}}", f"{n + 3}\\sqrt{{3}}"]
    return [*numbers, f"{n + 7}√2", f"{n} cm"]


def boxes(n: int) -> list[str]:
    return [f"[{n % 300}, {20 + k}, {400 + n // 300 % 200}, 300]" for k in range(GROUP)]


def choices(n: int) -> tuple[Sample, Sequence[str]]:
    a, b, c, d = (words(4 * n + k) for k in range(4))
    sample = row("choice", "B", f"Which? (A) {a} (B) {b} (C) {c} (D) {d}", options=[a, b, c, d])
    return sample, ["A", "B", "(C)", "D.", a, b, f"B. {b}", f"(D) {d}"]


def classes(n: int) -> tuple[Sample, Sequence[str]]:
    turned = CARS[n % 196 :] + CARS[: n % 196]
    sample = row("classification", turned[0], options=list(CARS))
    return sample, [turned[5 * k] if k % 2 else turned[k] for k in range(GROUP)]


CASES = {
    "counting": Case(
        row("counting", "4"),
        ["4", "5", "12", "no"],
        str,
        lambda n: (row("counting", str(n)), [str(n + k) for k in range(GROUP)]),
    ),
    "geometry": Case(
        row("geometry", "8√3"),
        ["8√3", "30°", "\\frac{1}{2}", "2\\sqrt{3}"],
        lambda n: f"{n + 1}√3",
        lambda n: (row("geometry", f"{n + 1}√3"), values(n)),
    ),
    "grounding": Case(
        row("grounding", "[10, 20, 100, 200]"),
        ['[{"bbox_2d": [10, 20, 100, 200], "label": "dog"}]', "[11,22,99,190]", "(1,2),(3,4)"],
        lambda n: f"[{n % 300}, {n // 300 % 200}, {301 + n % 300}, 300]",
        lambda n: (row("grounding", boxes(n)[0]), boxes(n)),
    ),
    "detection": Case(
        row("detection", detections(0)),
        [detections(0)] * 2 + ["No Objects"],
        detections,
        lambda n: (row("detection", detections(n)), [detections(n + k) for k in range(GROUP)]),
    ),
    "classification": Case(
        row("classification", "pink primrose"),
        ["pink primrose", "rose", "Pink_Primrose"],
        lambda n: f"{n} primroses",
        lambda n: (row("classification", words(n)), [words(n + k) for k in range(GROUP)]),
    ),
    "classification of 196": Case(
        row("classification", CARS[0], options=CARS),
        [CARS[0], CARS[1], CARS[0].replace(" ", "_")],
        lambda n: f"{CARS[n % 196]} {n}",
        classes,
    ),
    "choice": Case(
        row("choice", "A", "Which? (A) left (B) right", options=["left", "right"]),
        ["A", "(B)", "left", "right"],
        lambda n: f"{'AB'[n % 2]} {n}",
        choices,
    ),
}


def completion(answer: str) -> str:
    return f"<think>{REASONING}</think><answer>{answer}</answer>"


def groups(case: Case, num: int, kind: str, start: int = 0) -> list[Group]:
    """Completions of a kind in groups of eight; the distinct ones and the rows from ``start`` on."""
    if kind == "new rows":
        rows = [case.new_row(start // GROUP + n) for n in range(num // GROUP)]
        return [(sample, tuple(map(completion, answers))) for sample, answers in rows]
    repeated = (answer for answer, _ in zip(cycle(case.repeated), range(num)))
    answers = repeated if kind == "repeated" else map(case.distinct, range(start, start + num))
    texts = [completion(answer) for answer in answers]
    return [(case.sample, tuple(texts[n : n + GROUP])) for n in range(0, num, GROUP)]


def rate_alone(of_case: Sequence[Group]) -> float:
    start = time.perf_counter()
    for sample, texts in of_case:
        task = TASKS[sample.task]
        for text in texts:
            score_completion(task, sample, text, [VIEW])
    return sum(len(texts) for _, texts in of_case) / (time.perf_counter() - start)


def rate_in_pool(pool: ScoringPool, of_case: Sequence[Group]) -> float:
    jobs = [TaskJob(sample.task, sample, (VIEW,), texts, {}) for sample, texts in of_case]
    start = time.perf_counter()
    outcomes = pool.run(jobs)
    seconds = time.perf_counter() - start
    assert all(outcome is not None and outcome.status == "ok" for each in outcomes for outcome in each)
    return sum(len(texts) for _, texts in of_case) / seconds


def measure(num: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Completions per second of each case, by way and round."""
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in CASES}
    with ScoringPool(5.0, 2048, 2) as pool:
        for number in range(rounds + 1):
            for name, case in CASES.items():
                for kind in KINDS:
                    alone, in_pool = (groups(case, num, kind, (2 * number + half) * num) for half in range(2))
                    rates[name].setdefault(f"{kind}, alone", []).append(rate_alone(alone))
                    rates[name].setdefault(f"{kind}, pool", []).append(rate_in_pool(pool, in_pool))
    return {name: {way: each[1:] for way, each in ways.items()} for name, ways in rates.items()}  # the first warms up


def main() -> None:
    parser = ScriptParser(description=__doc__)
    parser.add_argument("--num", type=int, default=2000, help="completions of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, ways in measure(options.num, options.rounds).items():
        medians = {way: round(statistics.median(rates)) for way, rates in ways.items()}
        print(json.dumps({"case": name, **medians}), flush=True)


if __name__ == "__main__":
    main()
