"""What killed runs leave in the folder that runs and servers share, and who may remove it."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.rollout.served import dead_runs
from gpg_vl.rollout.served.shared_folder import Published, make_token

RUN = """
import sys
from pathlib import Path
from gpg_vl.rollout.served.shared_folder import Published

def half(folder):
    print(*versions, flush=True)
    sys.stdin.read()

published = Published(Path(sys.argv[1]))
versions = [published.publish(lambda folder: (folder / "w").touch()) for _ in range(3)]
published.publish(half)
"""


@contextmanager
def run_in(folder: Path) -> Iterator[tuple[subprocess.Popen[str], set[str]]]:
    """A process in the middle of its fourth publication, and what it has left in the folder."""
    before = names(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert len(process.stdout.readline().split()) == 3
        yield process, names(folder) - before
    finally:
        process.kill()
        process.communicate()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def publish(folder: Path) -> set[str]:
    """What is there after another run, whose own is removed at its end."""
    published = Published(folder)
    published.publish(lambda folder: None)
    published.end()
    return names(folder)


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Two versions, half of a third, and the lock; nothing of a run that lives, though it stands still."""
    make_token(tmp_path)
    (tmp_path / "notes.lock").touch()
    with run_in(tmp_path) as (dead, of_dead), run_in(tmp_path) as (living, of_living):
        assert len(of_dead) == len(of_living) == 4
        living.send_signal(signal.SIGSTOP)
        assert publish(tmp_path) == {"token", "notes.lock", *of_dead, *of_living}
        dead.kill()
        dead.wait()
        assert publish(tmp_path) == {"token", "notes.lock", *of_living}


@pytest.mark.parametrize("kernel", ["another", ""])
def test_what_another_node_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Its lock may be free here though it is held there."""
    with run_in(tmp_path) as (process, left):
        process.kill()
        process.wait()
        with monkeypatch.context() as patch:
            patch.setattr(dead_runs, "_this_kernel", lambda: kernel)
            assert publish(tmp_path) == left
        next(path for path in tmp_path.glob(".*.lock") if path.name in left).unlink()
        assert publish(tmp_path) == {name for name in left if not name.endswith(".lock")}, "nor what has no lock"


def test_a_folder_without_locks_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    published = Published(tmp_path)
    version = published.publish(lambda folder: None)
    assert names(tmp_path) == {version} and "No locks available" in capsys.readouterr().err
    published.end()
    assert names(tmp_path) == set()
