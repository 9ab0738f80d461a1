"""A pool that is stopped and goes on, and one under the limits that its caller has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gpg_vl.rewards.pool import ScoringPool, TaskJob
from gpg_vl.rewards.pool.process_trees import family
from tests.support.hostile_jobs import job, run
from tests.support.messages import lines_naming


def stop_and_go(supervisor: int, with_workers: bool, pause_s: float = 0.0) -> None:
    """Three times, as by a cluster that suspends a job, or Ctrl-Z; each for less than a completion may take."""
    for _ in range(3):
        time.sleep(0.1)
        workers = family(supervisor) - {supervisor} if with_workers else set()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in (supervisor, *workers):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                time.sleep(pause_s)
            time.sleep(0.8 if number == signal.SIGSTOP else 0)


def statuses_when_stopped(*jobs: TaskJob, with_workers: bool = True, pause_s: float = 0.0) -> list[str]:
    with ScoringPool(1.0, 512, 2) as pool:
        run(pool, "right")
        assert pool.process is not None
        thread = threading.Thread(target=stop_and_go, args=(pool.process.pid, with_workers, pause_s))
        thread.start()
        outcomes = [outcome for each in pool.run(list(jobs)) for outcome in each]
        thread.join()
    return [outcome.status for outcome in outcomes if outcome]


@pytest.mark.parametrize("with_workers", [True, False])
def test_a_pool_that_was_stopped_and_goes_on_loses_nothing_to_the_clock(with_workers: bool) -> None:
    assert statuses_when_stopped(*[job(*["doze"] * 12)] * 2, with_workers=with_workers) == ["ok"] * 24


def test_workers_that_go_on_later_than_their_supervisor_were_not_stopped_by_a_neighbour(tmp_path: Path) -> None:
    """Here while they load, which takes so long that each of the three stops falls into it."""
    path = tmp_path / "slow_to_load.py"
    path.write_text("import time\ntime.sleep(1)\nfrom tests.support.hostile_rewards import Hostile")
    assert statuses_when_stopped(job("right", "right", task=f"{path}:Hostile"), pause_s=0.03) == ["ok"] * 2


LIMITED = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.support.hostile_jobs import job
from gpg_vl.rewards.pool import ScoringPool, TaskJob
limit, num = getattr(resource, sys.argv[1]), int(sys.argv[2])
with ScoringPool(20.0, 512, 2) as pool:
    resource.setrlimit(limit, (num, num))
    try:
        outcomes = [outcome for each in pool.run([job(*["4"] * 3, task="counting"), job("right")]) for outcome in each]
        print(*(outcome.status for outcome in outcomes))
    except ValueError as error:
        print("ValueError", error)
"""


@pytest.mark.parametrize(
    ("limit", "num"), [("RLIMIT_AS", 8 << 30), ("RLIMIT_NOFILE", 64), ("RLIMIT_FSIZE", 1 << 20), ("RLIMIT_CPU", 300)]
)
def test_limits_that_the_caller_has_cost_no_reward(limit: str, num: int) -> None:
    command = [sys.executable, "-c", LIMITED, limit, str(num)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout == "ok ok ok ok\n", ran.stderr


@pytest.mark.parametrize(("limit", "num"), [("RLIMIT_NOFILE", 5), ("RLIMIT_AS", 40 << 20)])
def test_limits_that_leave_no_room_are_an_error_and_no_reward(limit: str, num: int) -> None:
    command = [sys.executable, "-c", LIMITED, limit, str(num)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout.startswith("ValueError") or ran.returncode != 0, (ran.stdout, ran.stderr)
    assert "ok" not in ran.stdout.split()


def test_a_limit_of_the_shell_is_named() -> None:
    """Which is no end of the supervisor, and nothing is tried again."""
    command = [sys.executable, "-c", LIMITED, "RLIMIT_NOFILE", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert lines_naming(ran.stdout, "ulimit"), (ran.stdout, ran.stderr)


def test_code_that_is_stopped_while_it_loads_is_not_waited_for(tmp_path: Path) -> None:
    """As a neighbour's call may do, again and again; each completion has its own outcome."""
    path = tmp_path / "stopping.py"
    path.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)")
    start = time.monotonic()
    with ScoringPool(1.0, 512, 2) as pool:
        stopped, fine = pool.run([job("right", "right", task=f"{path}:Task"), job("right")])
    assert time.monotonic() - start < 30
    assert [outcome and (outcome.status, "stopped" in outcome.message) for outcome in stopped] == [("error", True)] * 2
    assert fine[0] is not None and fine[0].status == "ok"
