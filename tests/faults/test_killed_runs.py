"""Runs of one process that are killed or signalled and started again by the same command; steps without signal."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl.run.run_log import read_metrics
from tests.support.messages import lines_naming
from tests.support.tiny_runs import (
    assert_equal_checkpoints,
    assert_equal_runs,
    fork_command,
    last_saved_step,
    last_step,
    start_command,
    train_words,
    wait_for,
    write_recipe_folder,
)

SECONDS = 120  # of a run that takes a few
SAVE_EVERY = 3


@pytest.fixture
def model(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen2_vl"]


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_ten_steps_equal_five_a_kill_and_five(tmp_path: Path, model: Path, workers: int) -> None:
    """By the command line: weights, optimizer, random states, samples, tokens, rewards and losses, bit for bit."""
    words = [*train_words("cut"), "--data.workers", str(workers)]
    folder = write_recipe_folder(tmp_path / "runs", model)
    assert start_command(folder, train_words("whole")).wait(SECONDS) == 0
    process = start_command(folder, words)
    wait_for(lambda: last_step(folder / "cut") >= 7, SECONDS)
    process.kill()
    assert process.wait(SECONDS) == -signal.SIGKILL
    assert last_saved_step(folder / "cut") == 5
    assert start_command(folder, words).wait(SECONDS) == 0
    assert lines_naming((folder / "log.txt").read_text(), "resuming", "cut", "step 5")
    assert_equal_runs(folder / "whole", folder / "cut")


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(3 * SECONDS)
def test_saves_behind_a_run_change_nothing(tmp_path: Path, model: Path) -> None:
    """Every checkpoint is that of a run that waits for it: random states, which the task's questions draw from, too."""
    folder = write_recipe_folder(tmp_path / "runs", model, {"run": {"steps": 6, "save_every": 1}})
    assert _outcome(folder, "waits", "tests.support.run_faults:wait_for_saves") == 0
    assert _outcome(folder, "goes-on") == 0
    for step in range(1, 7):
        assert_equal_checkpoints(folder / f"waits/checkpoint-{step}", folder / f"goes-on/checkpoint-{step}")
    assert_equal_runs(folder / "waits", folder / "goes-on")


@pytest.mark.faults
@pytest.mark.timeout(10 * SECONDS)
@pytest.mark.parametrize("num_kills", [pytest.param(5, marks=pytest.mark.faults_ci), 30])
def test_killed_at_random_moments(tmp_path: Path, model: Path, num_kills: int) -> None:
    """Every start goes on from the newest save, and what is left in the end is the history of an uninterrupted run.

    Some moments are in the start-up and some in a save; a run that is through before its moment makes room for another.
    """
    keys = {"run": {"steps": 12, "save_every": SAVE_EVERY}}
    folder = write_recipe_folder(tmp_path / "runs", model, keys)
    fork_command(folder, ["--version"]).join(SECONDS)  # starts the process that the others are forked from
    start = time.monotonic()
    assert _outcome(folder, "whole") == 0
    duration = time.monotonic() - start
    moments, kills, rounds = random.Random(num_kills), 0, 0
    while kills < num_kills:
        rounds += 1
        kills += kill_until_done(folder, f"run-{rounds}", moments, duration, num_kills - kills)
        assert_equal_runs(folder / "whole", folder / f"run-{rounds}")
    print(f"{kills} kills in {rounds} runs of {duration:.1f} s")


def kill_until_done(folder: Path, name: str, moments: random.Random, duration: float, most: int) -> int:
    """Kills a run up to ``most`` times, and starts it again each time, until it is through; how often it was killed."""
    run, kills = folder / name, 0
    while True:
        saved = last_saved_step(run)
        process = fork_command(folder, train_words(name))
        process.join(moments.uniform(0, 0.6 * duration) if kills < most else SECONDS)
        if process.exitcode is None and kills < most:
            process.kill()
            process.join(SECONDS)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, (folder / "log.txt").read_text()
            return kills
        kills += 1
        assert last_saved_step(run) >= saved
        done_again = last_step(run) - last_saved_step(run)
        assert done_again <= 2 * SAVE_EVERY, "the interval, and the steps while the last checkpoint was written"


@pytest.mark.faults
@pytest.mark.faults_ci
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("phase", ["rollout", "scoring", "backward", "save", "writing"])
def test_sigterm_in_each_phase(tmp_path: Path, model: Path, phase: str) -> None:
    """The process ends with 143 in good time, with its last finished step saved; started again it ends as ever."""
    save_every = 3 if phase == "writing" else 6
    folder = write_recipe_folder(tmp_path / "runs", model, {"run": {"steps": 12, "save_every": save_every}})
    assert _outcome(folder, "whole") == 0
    if phase == "scoring":
        process = fork_command(folder, train_words("cut"))
        wait_for(lambda: last_step(folder / "cut") >= 1, SECONDS)
        (folder / "signal").touch()
        process.join(SECONDS)
        assert process.exitcode == 143
    else:
        assert _outcome(folder, "cut", f"tests.support.run_faults:sigterm_in_{phase}") == 143
    [sent] = [float(line.split()[-1]) for line in (folder / "log.txt").read_text().splitlines() if "SIGTERM at" in line]
    assert time.time() - sent < 20
    assert last_saved_step(folder / "cut") == last_step(folder / "cut") > 0
    assert _outcome(folder, "cut") == 0
    assert_equal_runs(folder / "whole", folder / "cut")


def _outcome(folder: Path, name: str, fault: str | None = None) -> int | None:
    process = fork_command(folder, train_words(name), fault)
    process.join(SECONDS)
    return process.exitcode


@pytest.mark.faults
@pytest.mark.timeout(2 * SECONDS)
def test_fifty_steps_without_signal(tmp_path: Path, model: Path) -> None:
    """They are counted and logged, the weights stay as they were; a kill among them changes nothing."""
    keys = {
        "rewards": {"functions": []},  # a random model's two tokens are no answer: every completion earns 0
        "objective": {"beta_th": 1.0, "max_draws": 2},
        "update": {"weight_decay": 0.1},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 2},
        "run": {"steps": 50, "save_every": 10},
    }
    folder = write_recipe_folder(tmp_path / "runs", model, keys)
    process = fork_command(folder, train_words("silent"))
    wait_for(lambda: last_step(folder / "silent") >= 25, SECONDS)
    process.kill()
    process.join(SECONDS)
    assert _outcome(folder, "silent") == 0
    rows = read_metrics(folder / "silent")
    assert [row["silent_steps"] for row in rows] == list(range(1, 51))
    assert all(row["draws"] == 2 and row["groups"] == 4 and row["update"] is None for row in rows)
    before, after = load_file(model / "model.safetensors"), load_file(folder / "silent/checkpoint-50/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
