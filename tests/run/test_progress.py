"""What follows from a run's counts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gpg_vl.config import RunConfig, UpdateConfig
from gpg_vl.run.progress import Progress


def make(step: int = 0, **run: Any) -> Progress:
    return Progress(RunConfig(**{"steps": 20, "save_every": 5, "eval_every": 4, **run}), ["a", "b"], step=step)


def test_a_checkpoint_keeps_it() -> None:
    progress = make(8, stop_when={"counting": 0.5, "geometry": 0.9})
    progress.stream = {"epoch": 1}
    progress.shrunk_rows = 3
    for norm in (None, 1.0, math.inf, math.nan):
        progress.count_gradient(norm)
    progress.take_validation({"counting": 0.5, "geometry": 0.8})
    progress.saved_step = 8
    assert Progress.after(progress.state(), progress.run) == progress
    progress.step = 9
    assert progress.state().validation == {}, "the score of another step"
    assert Progress.after(progress.state(), progress.run).validated_step == 8


def test_steps_without_gradient_are_counted() -> None:
    progress = make()
    counts = []
    for norm in (1.0, math.nan, None, math.inf, 2.0):
        progress.count_gradient(norm)
        counts.append((progress.silent_steps, progress.skipped_steps, progress.skips_in_a_row))
    assert counts == [(0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 2, 2), (1, 2, 0)]


def test_what_is_due() -> None:
    progress = make(steps=11)
    saves, validations = [], []
    while not progress.is_over:
        progress.step += 1
        if progress.is_validation_due:
            progress.take_validation({})
            validations.append(progress.step)
            assert not progress.is_validation_due, "once a step"
        if progress.is_save_due:
            progress.saved_step = progress.step
            saves.append(progress.step)
    assert (saves, validations) == ([5, 10, 11], [4, 8])
    assert not make(8, eval_every=0).is_validation_due


def test_the_run_ends_by_stop_when_after_its_cooldown() -> None:
    progress = make(8, stop_when={"counting": 0.5, "geometry": 0.9}, cooldown_steps=3)
    progress.take_validation({"counting": 0.6, "geometry": 0.8})
    assert (progress.tasks_done, progress.last_step, progress.in_cooldown) == (("counting",), 20, False)
    progress.step = 12
    progress.take_validation({"counting": 0.4, "geometry": 0.9})
    assert (progress.tasks_done, progress.last_step) == (("geometry",), 20), "counting fell back: it is trained again"
    progress.take_validation({"counting": 0.5, "geometry": 0.9})
    assert (progress.all_done_step, progress.last_step, progress.in_cooldown) == (12, 15, True)
    progress.step = 14
    progress.take_validation({"counting": 0.1, "geometry": 0.1})
    assert progress.last_step == 15, "the cool-down is not taken back"


def test_the_rate_falls_to_zero_in_the_cooldown() -> None:
    config = UpdateConfig(learning_rate=1.0, schedule="constant")
    rates = [make(step, cooldown_steps=4).learning_rate(config) for step in range(14, 20)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert make(19).learning_rate(config) == 1.0
