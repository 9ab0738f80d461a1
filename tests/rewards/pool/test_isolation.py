"""What a call does to its process and its surroundings: real processes, and nothing that reaches the next call."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpg_vl.records import ImageView, Sample
from gpg_vl.rewards.functions import Call
from gpg_vl.rewards.pool import FunctionJob, Outcome, ScoringPool, TaskJob
from tests.support import hostile_jobs, invasive_rewards

FILE = Path(invasive_rewards.__file__)
INVASIVE = f"{FILE}:Invasive"
STOPS_ITSELF = {"stop itself", "stop the parent"}
"""What starts again for that reason, and then may be hit by a neighbour once too often."""
HARMFUL = [name for name in invasive_rewards.ACTIONS if name != "clean"]
TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """A word in the environment of the pool, and so of all that it starts."""
    word = f"pool-{uuid.uuid4().hex}"
    os.environ["TEST_POOL"] = word
    yield word
    del os.environ["TEST_POOL"]


@pytest.fixture(scope="module")
def pool(mark: str) -> Iterator[ScoringPool]:
    with ScoringPool(TIMEOUT_S, memory_mb=160, num_workers=2) as pool:
        yield pool


def marked(word: str) -> set[int]:
    """Pids of the processes that began with the word in their environment, zombies aside."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and word.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found - {os.getpid()}


def job(*answers: str, task: str = INVASIVE) -> TaskJob:
    return hostile_jobs.job(*answers, task=task)


def run(pool: ScoringPool, *answers: str) -> list[Outcome]:
    [outcomes] = pool.run([job(*answers)])
    assert all(outcome is not None for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


def totals(outcomes: list[Outcome | None]) -> list[float]:
    return [outcome.value.total if outcome and outcome.status == "ok" else -1.0 for outcome in outcomes]


@pytest.mark.parametrize("action", HARMFUL)
def test_nothing_reaches_the_next_call(pool: ScoringPool, mark: str, action: str) -> None:
    before, harmed, after = run(pool, "clean", action, "clean")
    assert harmed.status in invasive_rewards.ACTIONS[action][1], harmed.message
    assert (before.message, after.message) == ("", "")
    assert [before.value.total, after.value.total] == [1.2, 1.2]
    if harmed.status == "ok":
        assert harmed.value.total == 1.2, "the call's own value, not that of a fork"
    assert len(marked(mark)) <= 3, "the supervisor and its workers"


def may_be(action: str, status: str) -> bool:
    return status in invasive_rewards.ACTIONS[action][1] or (status == "error" and action in STOPS_ITSELF)


def test_a_hundred_of_them_in_one_batch(pool: ScoringPool, mark: str) -> None:
    """Among them innocent calls of the same file and of the kit's, each with a value of its own."""
    actions = [HARMFUL[n % len(HARMFUL)] for n in range(100)]
    jobs = []
    for n in range(0, 100, 4):
        jobs += [job("clean", *actions[n : n + 4], "clean"), job("3", "4", "no", "4", "5", task="counting")]
    outcomes = pool.run(jobs)
    for own, kit, n in zip(outcomes[::2], outcomes[1::2], range(0, 100, 4), strict=True):
        assert totals(kit) == [0.2, 1.2, 0.2, 1.2, 0.2]
        assert totals([own[0], own[-1]]) == [1.2, 1.2]
        for action, outcome in zip(actions[n : n + 4], own[1:-1], strict=True):
            assert outcome is not None
            assert may_be(action, outcome.status), (action, outcome.message)
    assert len(marked(mark)) <= 5, "the supervisor and its workers of either kind"


def test_a_hundred_reward_functions_in_one_batch(pool: ScoringPool, mark: str) -> None:
    """Calls of reward functions, one for each group, between groups of the kit's own; each has a value of its own."""
    names = [name for n in range(0, 100, len(HARMFUL)) for name in HARMFUL][:100]
    assert set(names) == set(HARMFUL)
    jobs: list[FunctionJob | TaskJob] = []
    for n, name in enumerate(names):
        jobs += [invasion(name, n), invasion("clean", n + 1000), job(f"{n}", "4", task="counting")]
    outcomes = pool.run(jobs)
    for n, name in enumerate(names):
        [harmed], [innocent], kit = outcomes[3 * n : 3 * n + 3]
        assert harmed is not None
        assert may_be(name, harmed.status), (name, harmed.message)
        assert harmed.status != "ok" or harmed.value.rewards == [n, n + 0.5], name
        assert innocent is not None
        assert (innocent.status, innocent.message) == ("ok", ""), (names[n - 1 : n + 2], innocent)
        assert innocent.value.rewards == [n + 1000, n + 1000.5]
        assert totals(kit) == [0.2 if n != 4 else 1.2, 1.2], name
    assert len(marked(mark)) <= 5, "the supervisor and its workers of either kind"


def invasion(action: str, number: int) -> FunctionJob:
    texts = (f"{action}:{number}", f"{action}:{number}.5")
    return FunctionJob(f"{FILE}:invade", Call("?", texts, ((1,), (2,)), {}))


def test_nothing_is_alive_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"pool-{uuid.uuid4().hex}"
    monkeypatch.setenv("TEST_POOL", mark)
    with ScoringPool(TIMEOUT_S, 512, 2) as own:
        run(own, "clean", "daemon", "haunt", "session", "shell", "fork, child sleeps", "stop the parent")
        assert len(marked(mark)) <= 2, "the supervisor and an idle worker"
    assert not marked(mark)


def test_late_imports_are_there_before_a_call(pool: ScoringPool, tmp_path: Path) -> None:
    """Of a class of the kit that a user's extends: a fork would else import them for itself, every time."""
    path = tmp_path / "boxes.py"
    path.write_text(
        """
import sys
from gpg_vl.tasks.grounding import Grounding

class Own(Grounding):
    def score(self, answer, sample, views):
        return {"iou": float("scipy.optimize" in sys.modules)}
"""
    )
    sample = Sample("s1", f"{path}:Own", ("a.png",), "Where?", "[1, 2, 30, 40]")
    view = ImageView(100, 100, 100, 100, "grid_1000")
    [[outcome]] = pool.run([TaskJob(f"{path}:Own", sample, (view,), ("<answer>[1, 2, 30, 40]</answer>",), {})])
    assert outcome is not None and outcome.value.parts["iou"] == 1, outcome


def test_forks_do_not_shift_values(pool: ScoringPool, tmp_path: Path) -> None:
    """Values of their own for each completion, from code that forks in every call."""
    path = tmp_path / "forking.py"
    path.write_text(
        """
import os, sys
from tests.support.invasive_rewards import Invasive

class Forking(Invasive):
    def score(self, answer, sample, views):
        if os.fork() == 0 and answer in "46":
            sys.exit()
        return {"correct": int(answer) / 10}
"""
    )
    answers = ["4", "5", "6", "7", "3", "2", "9", "1"]
    outcomes = pool.run([job(*answers, task=f"{path}:Forking") for _ in range(5)])
    assert [totals(each) for each in outcomes] == [[pytest.approx(int(n) / 10 + 0.2) for n in answers]] * 5


def test_a_supervisor_that_is_killed_is_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "killing.py"
    path.write_text(
        f"""
import os, signal
from pathlib import Path

def once(completions, **kwargs):
    flag = Path({str(tmp_path / "done")!r})
    if not flag.exists():
        flag.touch()
        worker = Path(f"/proc/{{os.getppid()}}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(worker[1]), signal.SIGKILL)
    return [0.5] * len(completions)
"""
    )
    with ScoringPool(5.0, 512, 1) as pool:
        [[outcome]] = pool.run([FunctionJob(f"{path}:once", Call("?", ("a", "b"), ((1,), (2,)), {}))])
        assert outcome is not None and outcome.value.rewards == [0.5, 0.5]


def test_a_pool_that_was_stopped_loses_no_reward_to_the_clock(mark: str) -> None:
    """All of its processes stand still for longer than a call may take, and go on."""
    with ScoringPool(1.5, 512, 1) as pool:
        run(pool, "clean")
        assert pool.process is not None
        supervisor = pool.process.pid
        pids = [supervisor, *invasive_rewards.child_of(supervisor)]
        stop = f"sleep 0.3; kill -STOP {' '.join(map(str, pids))}; sleep 4; kill -CONT {' '.join(map(str, pids))}"
        helper = os.posix_spawn("/bin/sh", ["sh", "-c", stop], os.environ)
        outcomes = pool.run([job("clean", *["clean"] * 200)])
        os.waitpid(helper, 0)
        assert {outcome.message for outcome in outcomes[0] if outcome} == {""}


# --- memory ---


def function_job(path: Path, name: str) -> FunctionJob:
    return FunctionJob(f"{path}:{name}", Call("?", ("a",), ((1,),), {}))


MEMORY = """
import mmap, os, threading, time

def reserves(completions, **kwargs):  # address space alone
    kept = [mmap.mmap(-1, 8 * 2**30, mmap.MAP_PRIVATE) for _ in range(4)]
    return [1.0]

def maps(completions, **kwargs):  # pages of a file, read
    with open({big!r}, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        return [float(sum(view[n] for n in range(0, len(view), 4096)) == 0)]

def writes(completions, **kwargs):
    kept = b"x" * (300 * 2**20)
    time.sleep(10)

def shares(completions, **kwargs):
    view = mmap.mmap(-1, 300 * 2**20)
    for _ in range(300):
        view.write(b"x" * 2**20)
    time.sleep(10)

def in_a_child(completions, **kwargs):
    if os.fork() == 0:
        kept = b"x" * (300 * 2**20)
        threading.Event().wait()
    os.wait()
"""


@pytest.fixture(scope="module")
def memory_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    with (folder / "big").open("wb") as file:
        file.truncate(300 * 2**20)
    (folder / "memory.py").write_text(MEMORY.format(big=str(folder / "big")))
    return folder / "memory.py"


@pytest.mark.parametrize(
    ("name", "is_counted"),
    [("reserves", False), ("maps", False), ("writes", True), ("shares", True), ("in_a_child", True)],
)
def test_resident_memory_counts_wherever_it_is(memory_file: Path, name: str, is_counted: bool) -> None:
    with ScoringPool(20.0, memory_mb=128, num_workers=1) as pool:
        [[outcome]] = pool.run([function_job(memory_file, name)])
        assert outcome is not None
        assert outcome.status == ("error" if is_counted else "ok"), outcome.message
        assert ("rewards.memory_mb is 128" in outcome.message) == is_counted


def test_torch_is_imported_in_a_function_at_the_default_limit(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text(
        "def late(completions, **kwargs):\n    import torch\n    return torch.ones(len(completions)) / 2\n"
        "def named(completions, **kwargs):\n    return [float(__import__('torch').ones(1))]\n"
    )
    with ScoringPool(30.0, memory_mb=2048, num_workers=1) as pool:
        outcomes = pool.run([function_job(path, "late"), function_job(path, "named"), function_job(path, "late")])
        assert [outcome.value.rewards for [outcome] in outcomes if outcome] == [[0.5], [1.0], [0.5]]


def test_limits_that_the_caller_has_are_kept(tmp_path: Path) -> None:
    """A run under ``ulimit -v`` and ``ulimit -n``."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.support.hostile_jobs import job
from gpg_vl.rewards.pool import ScoringPool
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with ScoringPool(5.0, 512, 2) as pool:
    for task in ({INVASIVE!r}, "counting"):
        [outcomes] = pool.run([job("clean" if task != "counting" else "4", task=task)])
        print([outcome.message or outcome.value.total for outcome in outcomes])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["[1.2]", "[1.2]"], done.stderr
