"""The watch of a rank, by two real processes under the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.messages import lines_naming

REPOSITORY = Path(__file__).parents[2]
SECONDS = 280  # of a case that ought to take 30, on a busy machine

SCRIPT = """
import os, re, signal, sys, threading, time
import torch.distributed
from gpg_vl.processes import collectives, rank_watch
from gpg_vl.processes.interrupts import INTERRUPTS, Interrupted
from gpg_vl.processes.pulse import PULSE
from gpg_vl.processes.ranks import end_ranks, run_on_main, run_together

rank, case = int(os.environ["RANK"]), sys.argv[1]
is_first_try = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
rank_watch.PATIENCE_SECONDS = 3.0
store, _, num_ranks = next(torch.distributed.rendezvous("env://"))
store = torch.distributed.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # torch finds none of old ranks
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)

def work():
    if rank == 1 and case == "agree":
        os.kill(os.getpid(), signal.SIGTERM)
    if rank == 0 and case == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(20)

def end_the_run():
    os.kill(os.getppid(), signal.SIGTERM)

def save():
    end_the_run()
    time.sleep(9)  # three times as long as a rank is patient
    sys.stdout.write("saved\\n")

def learn(seconds):
    with PULSE.beating("the lesson"):
        for _ in range(seconds):
            PULSE.beat()
            time.sleep(1)
        if rank == 1 and (case == "hang" or (case == "again" and is_first_try)):
            time.sleep(60)
        collectives.gather_object([rank])

def fall_behind(group):
    torch.distributed.barrier()
    with collectives.in_step(3 - collectives._MARGIN_SECONDS):
        torch.distributed.barrier()
    if rank == 1:
        time.sleep(6)  # outside, a rank may take longer
    torch.distributed.barrier()
    sys.stdout.write("waited\\n")
    sys.stdout.flush()
    with collectives.in_step(3 - collectives._MARGIN_SECONDS):
        if rank == 1:
            time.sleep(20)
        torch.distributed.barrier(group)

with INTERRUPTS.raising(), INTERRUPTS.held(), rank_watch.watched_rank(600.0 if case == "deaf" else 4.0):
    torch.distributed.barrier()  # both are watched
    try:
        if case == "stuck" and rank == 1:  # like a wait for a rank that is gone: no point where a signal is taken
            os.kill(os.getpid(), signal.SIGTERM)
        if case == "stuck":
            time.sleep(60)
        if case == "work":
            group = torch.distributed.new_group([1])
            for _ in range(9 * rank):
                torch.distributed.barrier(group)  # so counts of collectives do not say who waits
        if case in ("hang", "work", "again"):
            learn(10 if rank == 1 else 0)
        if case in ("work", "again"):
            sys.exit(0)
        if case == "step":
            fall_behind(None)
        if case == "step of a group":
            fall_behind(torch.distributed.new_group([0, 1]))
        if case == "pass":
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            learn(9)  # three times as long as a rank is patient
        if case == "stopped" and rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if case == "stopped":
            torch.distributed.barrier()
        if case == "held" and rank == 1:
            re.match("(a+)+b", 40 * "a")  # in which no other thread runs
        if case == "held":
            torch.distributed.barrier()
        if case == "deaf" and rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)  # it neither answers nor ends
        if case == "deaf":
            threading.Timer(1.0, end_the_run).start()
            torch.distributed.barrier()  # in it no handler of a signal runs
        if case == "save":
            with INTERRUPTS.deferred():
                run_on_main(save)
        run_together(work)
    except Interrupted as error:
        end_ranks()
        sys.stdout.write(f"rank {rank} took {error}\\n")  # in one piece, with buffers or without
        sys.exit(error.exit_code)
"""


def launch(case: str, restarts: int = 0) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "15"  # then the launcher kills
    command = [sys.executable, "-m", "gpg_vl.launch", "--standalone", "--nproc_per_node", "2"]
    command += ["--max_restarts", str(restarts), "--no-python"]
    command += [sys.executable, "-c", SCRIPT, case]
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done, time.monotonic() - start


@pytest.mark.faults
@pytest.mark.faults_ci
def test_a_signal_to_one_rank_is_taken_by_all() -> None:
    done, _ = launch("agree")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 took SIGTERM", "rank 1 took SIGTERM"]


@pytest.mark.faults
@pytest.mark.faults_ci
def test_a_rank_that_cannot_take_a_signal_ends_itself() -> None:
    done, seconds = launch("stuck")
    assert done.returncode == 128 + signal.SIGTERM
    assert lines_naming(done.stderr, "rank 0", "ranks")
    assert seconds < 50


def test_a_rank_that_waits_in_a_collective_hears_a_signal() -> None:
    done, _ = launch("deaf")
    assert done.returncode == 128 + signal.SIGTERM
    assert lines_naming(done.stderr, "rank 0", "ranks")


@pytest.mark.faults
@pytest.mark.faults_ci
def test_a_save_may_take_longer_than_a_rank_is_patient() -> None:
    """Of the rank that writes, and of the other, which waits for it."""
    done, _ = launch("save")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 took SIGTERM", "rank 1 took SIGTERM", "saved"], done.stderr


@pytest.mark.faults
@pytest.mark.faults_ci
def test_a_rank_without_progress_is_found_by_itself() -> None:
    done, _ = launch("hang")
    assert done.returncode == 1, done.stderr
    assert len(lines_naming(done.stderr, "rank 1 hangs", "the lesson", "4 s", "the same command")) == 1
    assert lines_naming(done.stderr, "rank 0 ends", "rank 1 hangs")
    assert lines_naming(done.stderr, "rank 1 ends", "rank 1 hangs")
    assert len([line for line in done.stderr.splitlines() if "in learn" in line]) == 2, "the stacks of both"


@pytest.mark.faults
def test_ranks_that_are_started_again_end_by_themselves() -> None:
    """The launcher's store still has the verdict on those before."""
    done, _ = launch("again", restarts=1)
    assert done.returncode == 0, done.stderr
    assert len(lines_naming(done.stderr, "rank 1 hangs", "the same command")) == 1
    assert len(lines_naming(done.stderr, "rank 1 ends", "rank 1 hangs")) == 1


@pytest.mark.faults
def test_a_rank_may_wait_for_one_that_goes_on() -> None:
    """The other works for more than twice the limit."""
    done, _ = launch("work")
    assert done.returncode == 0, done.stderr
    assert "hangs" not in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("case", ["stopped", "held"])
def test_a_rank_of_which_no_thread_runs_is_found_by_another(case: str) -> None:
    """A stopped process, and one in a call that holds the interpreter; nobody knows how long their work takes."""
    done, _ = launch(case)
    assert done.returncode == 1, done.stderr
    assert len(lines_naming(done.stderr, "rank 1 hangs", "no thread", "process", "the same command")) == 1
    assert lines_naming(done.stderr, "rank 0 ends", "rank 1 hangs")
    if case == "held":
        assert lines_naming(done.stderr, "File", "line", "in match"), "where it is"


@pytest.mark.faults
def test_a_pass_that_goes_on_is_finished_before_a_signal_is_taken() -> None:
    done, _ = launch("pass")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 took SIGTERM", "rank 1 took SIGTERM"]


@pytest.mark.faults
@pytest.mark.parametrize("case", ["step", "step of a group"])
def test_ranks_in_step_do_not_wait_long(case: str) -> None:
    done, _ = launch(case)
    assert done.returncode == 1
    assert done.stdout.count("waited") == 2
    assert lines_naming(done.stderr, "Timed out", "3000ms")


def test_no_rank_outlives_its_launcher() -> None:
    done, seconds = launch("orphan")  # run waits until the ranks, which hold the pipe, have ended too
    assert done.returncode == -signal.SIGKILL
    assert lines_naming(done.stderr, "rank 0", "launcher")
    assert lines_naming(done.stderr, "rank 1", "launcher")
    assert seconds < 19
