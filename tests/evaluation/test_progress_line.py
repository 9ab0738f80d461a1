"""What a progress line says, on a terminal and elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from gpg_vl.evaluation.progress_line import ProgressLine

Pass = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def add(seconds: float) -> None:
        now[0] += seconds

    return add


def test_a_line_now_and_then_and_one_at_the_end(wait: Pass, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("checked", "rows", total=100, done=10, seconds_between_lines=5.0) as line:
        for done in (20, 30, 40, 100):
            wait(4.0)
            line.show(done)
    assert capsys.readouterr().err == (
        "checked 30/100 rows, 2.50 a second, 28 s to go\nchecked 100/100 rows, 5.62 a second, 16 s\n"
    )


def test_nothing_done_has_no_pace(wait: Pass, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("checked", "rows", total=4, done=2)
    wait(40.0)
    line.show(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_one_line_and_an_error_begins_the_next(
    wait: Pass, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def fail_after_two_rows() -> None:
        with ProgressLine("checked", "rows", total=4) as line:
            for done in (1, 2):
                wait(1.0)
                line.show(done)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_two_rows()
    shown = capsys.readouterr().err
    assert shown.count("\r") == 2 and shown.count("\n") == 1 and shown.endswith("\n")
    with ProgressLine("checked", "rows", total=1) as line:
        wait(1.0)
        line.show(1)
    assert capsys.readouterr().err.count("\n") == 1, "the last line ends itself"
