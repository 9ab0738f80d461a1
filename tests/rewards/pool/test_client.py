"""The pool against code that hangs, crashes, leaks and lies; and what is left of its processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpg_vl.records import Sample
from gpg_vl.rewards.pool import ScoringPool, TaskJob
from tests.support.clock import slowness, wait_until
from tests.support.hostile_jobs import HOSTILE, job, run
from tests.support.messages import naming

TIMEOUT_S = 0.15


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool]:
    with ScoringPool(TIMEOUT_S, memory_mb=512, num_workers=2) as pool:
        yield pool


def processes_with(text: str) -> list[int]:
    """Pids of processes whose command line has the text."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and text in (folder / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def family(pid: int) -> dict[int, str]:
    """State, as Z for a zombie, of a process and all below it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            parents[int(folder.name)] = (int(parent), state)
    members = {pid}
    for _ in range(4):
        members |= {child for child, (parent, _) in parents.items() if parent in members}
    return {member: parents[member][1] for member in members if member in parents}


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- what a verifier may do ---


@pytest.mark.parametrize(
    ("action", "status", "named"),
    [
        ("right", "ok", []),
        ("true", "ok", []),
        ("print", "ok", []),
        ("sleep", "timeout", ["0.15 s"]),
        ("tower", "timeout", ["0.15 s"]),
        ("busy", "timeout", ["0.15 s"]),
        ("regex", "timeout", ["0.15 s"]),
        ("recursion", "error", ["RecursionError"]),
        ("raise", "error", ["KeyError", "no such column", "hostile_rewards.py:"]),
        ("exit", "error", ["SystemExit", "enough"]),
        ("crash", "error", ["exit code 3"]),
        ("nan", "error", ["hostile", "correct", "nan"]),
        ("infinite", "error", ["hostile", "correct", "inf"]),
        ("large", "error", ["hostile", "correct", "1.5", "[0, 1]"]),
        ("negative", "error", ["hostile", "correct", "-0.1", "[0, 1]"]),
        ("text", "error", ["hostile", "correct", "str"]),
        ("none", "error", ["hostile", "correct", "NoneType"]),
        ("undeclared", "error", ["weights"]),
        ("no dict", "error", ["float", "dict"]),
    ],
)
def test_one_completion_only(pool: ScoringPool, action: str, status: str, named: list[str]) -> None:
    outcomes = run(pool, "right", action, "right")
    assert [outcome.status for outcome in outcomes] == ["ok", status, "ok"]
    assert [outcomes[n].value.total for n in (0, 2)] == [1.2, 1.2]
    assert re.search(naming(*named), outcomes[1].message)
    assert len(outcomes[1].message) < 400


@pytest.mark.parametrize("action", ["nan", "infinite", "large", "negative", "text", "none", "undeclared", "no dict"])
def test_mistakes_of_the_code_are_told_from_failures(pool: ScoringPool, action: str) -> None:
    """They would come again with every completion; the line is that of ``score``."""
    right, wrong, failed = run(pool, "right", action, "raise")
    assert [each.is_mistake for each in (right, wrong, failed)] == [False, True, False]
    assert re.search(r"\(hostile_rewards.py:\d+\)$", wrong.message)


@pytest.mark.parametrize(("action", "value"), [("numpy bool", 1.0), ("numpy number", 0.5), ("array", 0.25)])
def test_parts_may_be_numbers_of_numpy(pool: ScoringPool, action: str, value: float) -> None:
    [outcome] = run(pool, action)
    assert outcome.value.parts == {"correct": value, "format": 1.0}


def test_memory_has_a_limit_of_its_own() -> None:
    with ScoringPool(20.0, memory_mb=128, num_workers=2) as patient:
        outcomes = run(patient, "right", "memory", "right")
    assert [outcome.status for outcome in outcomes] == ["ok", "error", "ok"]
    assert re.search(r"took \d+ MB; rewards.memory_mb is 128", outcomes[1].message.replace(",", ""))


def test_a_task_may_declare_another_range(pool: ScoringPool) -> None:
    [outcomes] = pool.run([job("negative", "large", task=HOSTILE.replace("Hostile", "Signed"))])
    assert [outcome.value.parts["correct"] for outcome in outcomes if outcome] == [-0.1, 1.5]


def test_output_of_a_verifier_is_kept_apart(pool: ScoringPool, capfd: pytest.CaptureFixture[str]) -> None:
    with ScoringPool(5.0, 512, 1) as own:
        run(own, "print")
    assert capfd.readouterr().out == ""


def test_the_limit_is_that_of_one_completion(pool: ScoringPool) -> None:
    """Five that take 0.3 s each, one after the other, under a limit of 1 s."""
    with ScoringPool(1.0, 512, num_workers=1) as patient:
        assert {outcome.status for outcome in run(patient, *["doze"] * 5)} == {"ok"}


def test_waiting_for_a_processor_does_not_count() -> None:
    """A quarter of a second of work under a limit of one, on a processor that eight others want."""
    own = os.sched_getaffinity(0)
    hogs = []
    os.sched_setaffinity(0, {min(own)})
    try:
        command = [sys.executable, "-c", "while True: pass"]
        hogs = [subprocess.Popen(command, start_new_session=True) for _ in range(8)]
        with ScoringPool(1.0, 512, num_workers=1) as pool:
            run(pool, "right")
            start = time.monotonic()
            assert [outcome.status for outcome in run(pool, "work", "sleep", "work")] == ["ok", "timeout", "ok"]
            assert time.monotonic() - start > 3, "the processor was wanted by others"
    finally:
        os.sched_setaffinity(0, own)
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_code_that_does_not_load_costs_its_jobs(pool: ScoringPool, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module")
    (tmp_path / "crashing.py").write_text("import os; os._exit(1)")
    jobs = [job("right", "right", task=f"{tmp_path}/{name}.py:Task") for name in ("broken", "crashing")]
    broken, crashing, fine = pool.run([*jobs, job("right")])
    assert [bool(outcome and re.search(naming("died"), outcome.message)) for outcome in crashing] == [True] * 2
    assert all(outcome and "ModuleNotFoundError" in outcome.message for outcome in broken)
    assert fine[0] is not None and fine[0].status == "ok"


# --- a hundred of them ---


def test_a_hundred_hanging_verifiers(pool: ScoringPool) -> None:
    kinds = ["sleep", "tower", "busy", "regex"]
    hanging = [kinds[n % 4] for n in range(100)]
    run(pool, "right")
    assert pool.process is not None
    before = resident_mb(pool.process.pid)
    outcomes = pool.run([job(*hanging[n : n + 8], "right") for n in range(0, 100, 8)])
    statuses = Counter(outcome.status for each in outcomes for outcome in each if outcome)
    assert statuses == {"timeout": 100, "ok": 13}
    assert resident_mb(pool.process.pid) < before + 5
    members = family(pool.process.pid)
    assert len(members) <= 1 + 2 * 2 and "Z" not in members.values(), (
        "the supervisor and its workers, idle ones included"
    )


def test_two_workers_halve_the_time_of_what_hangs(pool: ScoringPool) -> None:
    run(pool, "right")
    start = time.monotonic()
    outcomes = pool.run([job(*["sleep"] * 8) for _ in range(5)])
    assert time.monotonic() - start < 40 * TIMEOUT_S
    assert all(outcome and outcome.status == "timeout" for each in outcomes for outcome in each)


def test_what_a_verifier_started_ends_with_it(pool: ScoringPool) -> None:
    with ScoringPool(1.0, 512, num_workers=1) as patient:
        assert run(patient, "child")[0].status == "timeout"
    assert wait_until(lambda: not processes_with("left behind by a verifier"))


def test_what_a_call_keeps_is_gone_with_it(tmp_path: Path) -> None:
    """Each call keeps 30 MB: in one process the tenth would be beyond its 300 MB."""
    path = tmp_path / "leaky.py"
    path.write_text(
        """
from tests.support.hostile_rewards import Hostile
kept = []

class Leaky(Hostile):
    def score(self, answer, sample, views):
        kept.append(b"x" * (30 * 2**20))
        return {"correct": 1.0 / len(kept)}
"""
    )
    with ScoringPool(5.0, memory_mb=300, num_workers=1) as pool:
        outcomes = pool.run([job("right", "right", task=f"{path}:Leaky") for _ in range(10)])
        assert {outcome.value.parts["correct"] for each in outcomes for outcome in each if outcome} == {1.0}


def test_the_smallest_limit_leaves_room_for_the_kits_own_tasks() -> None:
    """sympy, which geometry loads late, is more than half of 64 MB."""
    pool = ScoringPool(30.0, memory_mb=64, num_workers=1)
    sample = Sample("s1", "geometry", (), "What?", "4")
    jobs = [TaskJob("geometry", sample, (), (f"<answer>{n}^2</answer>",), {}) for n in range(20)]
    with pool:
        assert {outcome.status for [outcome] in pool.run(jobs) if outcome} == {"ok"}


# --- the pool itself ---


def test_stops_at_the_first_failure() -> None:
    with ScoringPool(1.0, 512, num_workers=2) as pool:
        start = time.monotonic()
        outcomes = pool.run([job("right", "raise"), job("sleep"), *[job(*["doze"] * 40)]], stops_on_failure=True)
        assert time.monotonic() - start < 5
        assert outcomes[0][1] is not None and outcomes[0][1].status == "error"
        assert outcomes[2][-1] is None
        assert [outcome.status for outcome in run(pool, "right", "raise")] == ["ok", "error"], "it can be used again"


def test_workers_lost_between_batches_are_replaced(pool: ScoringPool) -> None:
    run(pool, "right")
    assert pool.process is not None
    for pid in set(family(pool.process.pid)) - {pool.process.pid}:
        os.kill(pid, signal.SIGKILL)
    assert run(pool, "right", "right")[1].status == "ok"


def test_a_lost_supervisor_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScoringPool(5.0, 512, 1) as pool:
        run(pool, "right")
        assert pool.process is not None
        pool.process.kill()
        assert run(pool, "right")[0].status == "ok"
        start = pool.start

        def start_and_kill() -> None:
            start()
            assert pool.process is not None
            pool.process.kill()

        monkeypatch.setattr(pool, "start", start_and_kill)
        with pytest.raises(RuntimeError, match=naming("scoring", "twice")):
            run(pool, "right")
        monkeypatch.undo()
        assert run(pool, "right")[0].status == "ok"


def test_close_and_interrupts_leave_nothing() -> None:
    pool = ScoringPool(30.0, 512, 2)

    def on_alarm(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, on_alarm)
    run(pool, "right")
    assert pool.process is not None
    members = family(pool.process.pid)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            pool.run([job("busy"), job("sleep")])
        assert time.monotonic() - start < 4, "closing does not wait for what hangs"
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members))
    pool.close()


RUN_IN_THE_BACKGROUND = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.support.hostile_jobs import job, run
from gpg_vl.rewards.pool import ScoringPool
pool = ScoringPool(60.0, 512, 2)
run(pool, "right")
print(pool.process.pid, flush=True)
pool.run([job("busy"), job("sleep")])
"""


def test_no_orphans_when_the_run_is_killed() -> None:
    command = [sys.executable, "-c", RUN_IN_THE_BACKGROUND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        supervisor = int(process.stdout.readline())
        assert wait_until(lambda: len(family(supervisor)) == 5), "two workers, each with the fork that its unit runs in"
        members = family(supervisor)
        process.kill()
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in members)), members


def test_pool_imports_no_torch_and_is_up_in_a_second() -> None:
    """Measured from nothing, the interpreter's own start included; a good second is allowed for a busy machine."""
    check = "import sys, gpg_vl.rewards.pool.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    seconds = []
    for _ in range(3):
        with ScoringPool(5.0, 512, 2) as pool:
            start = time.monotonic()
            pool.run([job("right", task="counting")])
            seconds.append(time.monotonic() - start)
    assert min(seconds) < 1.0 * slowness(), seconds


def test_throughput() -> None:
    """2,000 completions a second are promised on two idle cores; half of it is asserted, for machines with other work.

    Measured on two cores that did other work as well: 45,000/s in groups of eight, 17,000/s one by one.
    """
    jobs = [job(*["4"] * 8, task="counting") for _ in range(500)]
    with ScoringPool(5.0, 512, 2) as pool:
        pool.run(jobs[:2])
        start = time.monotonic()
        outcomes = pool.run(jobs)
        assert 4000 / (time.monotonic() - start) > 1000
        assert all(outcome and outcome.status == "ok" for each in outcomes for outcome in each)
