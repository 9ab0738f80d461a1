"""Completions per second of each task, in one process and through a pool of two: ``python -m benchmarks.scoring``.

Answers are repeated, as the completions of a group repeat each other, or all distinct, so that no cache helps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

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
    """A row, and answers to it: the n-th of a few that repeat, or the n-th of many."""

    sample: Sample
    repeated: Sequence[str]
    distinct: Callable[[int], str]


def detections(move: int) -> str:
    return str([{"Position": [x + move % 7, y + move // 7 % 200, u, v], "Confidence": 0.8} for x, y, u, v in BOXES])


def row(task: str, answer: str, question: str = "What is it?", **meta: object) -> Sample:
    return Sample("row", task, ("picture.png",), question, answer, meta)


CASES = {
    "counting": Case(row("counting", "4"), ["4", "5", "12", "no"], str),
    "geometry": Case(row("geometry", "8√3"), ["8√3", "30°", "\\frac{1}{2}", "2\\sqrt{3}"], lambda n: f"{n + 1}√3"),
    "grounding": Case(
        row("grounding", "[10, 20, 100, 200]"),
        ['[{"bbox_2d": [10, 20, 100, 200], "label": "dog"}]', "[11,22,99,190]", "(1,2),(3,4)"],
        lambda n: f"[{n % 300}, {n // 300 % 200}, {301 + n % 300}, 300]",
    ),
    "detection": Case(row("detection", detections(0)), [detections(0)] * 2 + ["No Objects"], detections),
    "classification": Case(
        row("classification", "pink primrose"), ["pink primrose", "rose", "Pink_Primrose"], lambda n: f"{n} primroses"
    ),
    "classification of 196": Case(
        row("classification", CARS[0], options=CARS),
        [CARS[0], CARS[1], CARS[0].replace(" ", "_")],
        lambda n: f"{CARS[n % 196]} {n}",
    ),
    "choice": Case(
        row("choice", "A", "Which? (A) left (B) right", options=["left", "right"]),
        ["A", "(B)", "left", "right"],
        lambda n: f"{'AB'[n % 2]} {n}",
    ),
}


def completions(case: Case, num: int, are_distinct: bool, start: int = 0) -> list[str]:
    answers = (
        map(case.distinct, range(start, start + num))
        if are_distinct
        else (a for a, _ in zip(cycle(case.repeated), range(num)))
    )
    return [f"<think>{REASONING}</think><answer>{answer}</answer>" for answer in answers]


def rate_alone(case: Case, texts: Sequence[str]) -> float:
    task = TASKS[case.sample.task]
    start = time.perf_counter()
    for text in texts:
        score_completion(task, case.sample, text, [VIEW])
    return len(texts) / (time.perf_counter() - start)


def rate_in_pool(pool: ScoringPool, case: Case, texts: Sequence[str]) -> float:
    groups = [tuple(texts[n : n + GROUP]) for n in range(0, len(texts), GROUP)]
    jobs = [TaskJob(case.sample.task, case.sample, (VIEW,), group, {}) for group in groups]
    start = time.perf_counter()
    outcomes = pool.run(jobs)
    seconds = time.perf_counter() - start
    assert all(outcome is not None and outcome.status == "ok" for each in outcomes for outcome in each)
    return len(texts) / seconds


def measure(num: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Completions per second of each case, by way and round."""
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in CASES}
    with ScoringPool(5.0, 2048, 2) as pool:
        for number in range(rounds + 1):
            for name, case in CASES.items():
                for kind in ("repeated", "distinct"):
                    texts = completions(case, num, kind == "distinct", 2 * number * num)
                    rates[name].setdefault(f"{kind}, alone", []).append(rate_alone(case, texts))
                    rates[name].setdefault(f"{kind}, pool", []).append(rate_in_pool(pool, case, texts))
    return {name: {way: each[1:] for way, each in ways.items()} for name, ways in rates.items()}  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=2000, help="completions of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, ways in measure(options.num, options.rounds).items():
        medians = {way: round(statistics.median(rates)) for way, rates in ways.items()}
        print(json.dumps({"case": name, **medians}), flush=True)


if __name__ == "__main__":
    main()
