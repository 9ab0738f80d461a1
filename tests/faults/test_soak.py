"""A long run of tiny steps with faults all along: it gets through, and takes no more of the machine than at first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median

import pytest

from gpg_vl.run.run_log import read_metrics
from tests.support.messages import lines_naming
from tests.support.tiny_runs import fork_command, last_step, train_words, write_recipe_folder

STEPS = 1000
WARM = 200  # steps after which nothing should grow
SECONDS = 3000
FLAT = 1.05

UNRELIABLE = '''
def unreliable(completions, **kwargs):
    """Of a hundred calls after the first step one raises, one hangs and one takes its process along."""
    has_begun = Path(__file__).with_name("run").joinpath("metrics.jsonl").exists()
    fate = random.SystemRandom().random() if has_begun else 1.0  # a trial that fails ends the run, as it should
    if fate < 0.01:
        raise KeyError("injected")
    if fate < 0.02:
        time.sleep(60)
    if fate < 0.03:
        os.kill(os.getpid(), signal.SIGKILL)
    return [0.0 for _ in completions]
'''


@pytest.mark.faults
@pytest.mark.timeout(SECONDS)
def test_a_thousand_steps_with_one_percent_of_faults(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Four prompts a step. A draw of which everything fails ends the run; with two prompts it would happen.

    So do three steps in a row without a finite gradient; with many prompts, a step has many passes that may have none.
    """
    keys = {
        "rewards": {"functions": ["own.py:noise", "own.py:unreliable"], "timeout_s": 0.2},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "max_new_tokens": 3},
        "update": {"schedule": "constant", "learning_rate": 1e-5},
        "run": {"steps": STEPS, "save_every": 100, "save_total_limit": 2},
    }
    folder = write_recipe_folder(tmp_path / "runs", model_folders["qwen2_vl"], keys)
    with (folder / "own.py").open("a") as file:
        file.write(UNRELIABLE)
    process = fork_command(folder, train_words("run"), "tests.support.run_faults:soak")
    try:
        by_step = watch(process, folder / "run")
    finally:
        process.kill()
    assert process.exitcode == 0, (folder / "log.txt").read_text()[-3000:]
    assert_faults_struck(folder / "run", (folder / "log.txt").read_text())
    early = [use for step, use in by_step if WARM <= step < STEPS // 2]
    late = [use for step, use in by_step if step >= STEPS - (STEPS // 2 - WARM)]
    assert min(len(early), len(late)) > 20
    for what in early[0]:
        before, after = median(use[what] for use in early), median(use[what] for use in late)
        print(f"{what}: {before:.0f} in steps {WARM} to {STEPS // 2}, {after:.0f} in as many at the end")
        assert after <= FLAT * before, what


def watch(process: BaseProcess, run: Path) -> list[tuple[int, dict[str, int]]]:
    """What the run took of the machine, twice a second, with its step, until it ended."""
    seen = []
    while True:
        process.join(0.5)
        if process.exitcode is not None:
            return seen
        try:
            seen.append((last_step(run), resources(process.pid or 0)))
        except (FileNotFoundError, ProcessLookupError, KeyError):  # it ended in between, or its supervisor has
            continue


def resources(pid: int) -> dict[str, int]:
    """Of the run and the process that supervises its scoring, whose workers come and go."""
    tree = [pid, *children(pid)]
    status = [Path(f"/proc/{each}/status").read_text().splitlines() for each in tree]
    fields = [dict(line.split(":", 1) for line in lines) for lines in status]
    return {
        "memory_kb": sum(int(each["VmRSS"].split()[0]) for each in fields),
        "threads": sum(int(each["Threads"]) for each in fields),
        "files": sum(len(os.listdir(f"/proc/{each}/fd")) for each in tree),
        "processes": len(tree) + sum(1 for each in tree[1:] for _ in children(each)),
    }


def children(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(stat.read_text().rsplit(")")[-1].split()[1]) == pid:
                yield int(stat.parent.name)


def assert_faults_struck(run: Path, said: str) -> None:
    """Each kind of them, about as often as it was to, and each is in the log."""
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    statuses: Counter[str] = Counter()
    for row in rows:
        statuses.update(row["status"])
    assert statuses["timeout"] > 10
    assert statuses["error"] > 20, "raised, or died"
    assert rows[-1]["skipped_steps"] > 3
    restarts = len(lines_naming(said, "memory", "update.tokens_per_micro_batch"))
    assert restarts > 3
    print(dict(statuses), f"skipped {rows[-1]['skipped_steps']}", f"out of memory {restarts}")
