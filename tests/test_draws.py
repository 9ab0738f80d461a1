"""Steps whose first draw was begun one step ahead: the same prompts as in turn, also after a stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from accelerate import Accelerator

from gpg_vl.draws import Draws
from gpg_vl.run.random_state import read_random_state
from tests.support.collectors import (
    Answers,
    Outcome,
    collect_on_two_ranks,
    finish_step,
    ids,
    make_collector,
    make_draws,
)

S: Outcome = "signal"
N: Outcome = "silent"
B: Outcome = "bad image"
OUTCOMES: list[Outcome] = [S, S, N, N, S, N, N, S, S, S, N, B, S, S, B, B, N, N, S, S, S, N, S, S, S, N, S, S, S, S]
STEPS = 5
Position = Any
Interfere = Callable[[int, Draws, Answers], None]


def make(ahead: int) -> tuple[Draws, Answers]:
    collector, answers = make_collector(OUTCOMES, Accelerator(), 3, 0.67, ahead=ahead)
    return make_draws(collector, STEPS), answers


def run(
    draws: Draws, answers: Answers, first: int = 1, interfere: Interfere = lambda *_: None
) -> tuple[list[Any], list[Position]]:
    """What each step collects, and the position after it. The update draws random numbers, as a user's code may."""
    steps, positions = [], []
    for step in range(first, STEPS + 1):
        collected = draws.collect(step)
        draws.begin(step + 1)
        interfere(step, draws, answers)
        random.random()
        finish_step(draws, step)
        steps.append((ids(collected.groups), collected.num_draws, collected.staleness))
        positions.append((draws._progress.stream, draws._progress.random_state))
    return steps, positions


def without_staleness(steps: Sequence[Any]) -> list[Any]:
    return [step[:2] for step in steps]


def test_prompts_and_positions_are_those_of_a_run_in_turn() -> None:
    """With further draws and bad images; seeds as well."""
    (in_turn, of_turn), (ahead, of_ahead) = make(0), make(1)
    expected, positions = run(in_turn, of_turn)
    found, same = run(ahead, of_ahead)
    assert without_staleness(found) == without_staleness(expected)
    assert {num for _, num, _ in found} > {1} and len({len(position[0]["left_out"]) for position in same}) > 2
    assert [position[0] for position in same] == [position[0] for position in positions]
    assert of_ahead.seeds == of_turn.seeds
    assert [staleness for *_, staleness in found] == [0, 1, 1, 1, 1]
    assert [staleness for *_, staleness in expected] == [0] * STEPS


@pytest.mark.parametrize("stopped", range(1, STEPS))
def test_a_run_that_goes_on_draws_the_same_prompts(stopped: int) -> None:
    expected, positions = run(*make(1))
    draws, answers = make(1)
    draws._stream.restore(positions[stopped - 1][0])
    draws._progress.step = stopped
    found, again = run(draws, answers, stopped + 1)
    assert without_staleness(found) == without_staleness(expected[stopped:])
    assert [each[0] for each in again] == [each[0] for each in positions[stopped:]]
    assert found[0][2] == 0, "its first draw is of its present weights"


def test_a_draw_without_an_answer_is_made_anew() -> None:
    """From the same prompts, by the present policy."""

    def fail(step: int, draws: Draws, answers: Answers) -> None:
        answers.is_answered = step != 2

    expected, positions = run(*make(0))
    draws, answers = make(1)
    found, same = run(draws, answers, interfere=fail)
    assert without_staleness(found) == without_staleness(expected)
    assert [staleness for *_, staleness in found] == [0, 1, 0, 1, 1]
    assert [each[0] for each in same] == [each[0] for each in positions]
    assert answers.num_dropped == 1


def test_a_task_that_has_ended_meanwhile_is_not_drawn() -> None:
    """Random generators, too, are where a run that stopped here would find them."""
    before: list[Any] = []

    def end_task(step: int, draws: Draws, answers: Answers) -> None:
        if step == 2:
            draws._progress.tasks_done = ("other",)
            before.append(draws.position[1])
            original = draws._collector.collect

            def collect(*words: Any) -> Any:
                before.append(read_random_state())
                return original(*words)

            draws._collector.collect = collect  # type: ignore[method-assign]

    found, _ = run(*make(1), interfere=end_task)
    assert [staleness for *_, staleness in found] == [0, 1, 0, 1, 1]
    assert before[0] == before[1]


def test_nothing_is_begun_beyond_the_last_step_or_in_turn() -> None:
    draws, answers = make(1)
    run(draws, answers)
    assert len({seed[1] for seed in answers.seeds}) == STEPS
    draws, answers = make(0)
    draws.begin(1)
    assert answers.seeds == []


def test_ranks_agree_on_what_has_begun() -> None:
    """On the second rank it is not answered in the end: both draw anew."""
    outcomes: list[Outcome] = [S, N, S, S, B, S, S, S, S, S, S, S, N, S]
    first, second = collect_on_two_ranks(outcomes, prompts_per_step=4, beta_th=0.5, ahead=1)
    alone = make_draws(make_collector(outcomes, Accelerator(), 4, 0.5)[0], 3)
    for step, (one, other) in enumerate(zip(first, second, strict=True), start=1):
        assert one["staleness"] == other["staleness"] == (step == 2)
        assert one["drawn"] == other["drawn"]
        assert sorted(one["groups"] + other["groups"]) == sorted(ids(alone.collect(step).groups))
