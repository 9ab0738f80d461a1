"""The state of a run on a terminal of 80 columns: what it shows, what scrolls above it, and terminals that go away."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpg_vl.run.live_display import LiveDisplay, LiveState, describe_trend, draw, draw_bars
from gpg_vl.run.run_log import RunLog
from gpg_vl.screen import is_terminal, say
from tests.support.onlookers import Terminal

METRICS: dict[str, Any] = {
    "reward": 0.512, "reward_by_task": {"counting": 0.61, "tasks/own.py:Colour": 0.41}, "groups": 40,
    "trained_groups": 30, "alpha": 4 / 3, "draws": 2, "group_shares": {"easy": 0.12, "hard": 0.13, "signal": 0.75},
    "status": {"ok": 300, "unparsable": 20}, "finished": 0.88, "completion_tokens": 132.6, "seconds": {"step": 35.2},
    "speed": {"tokens_per_second": 1234.5, "peak_memory_gib": 12.34, "mfu": 0.31},
}  # fmt: skip
STATE = LiveState("mine", 120, 500, "rollout, draw 2", 12.0, 4.2 * 3600, (0.1, 0.2, 0.4, 0.512), METRICS)


def lines_of(state: LiveState, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(draw(state))
    return console.export_text().splitlines()


def test_what_is_shown() -> None:
    lines = lines_of(STATE)
    assert {len(line) for line in lines} == {80}
    text = [re.sub(r"[│╭╮─]+", "", line).strip() for line in lines]
    assert text[0] == "mine: step 120 of 500"
    assert text[1].endswith("24%   ETA 4h")
    columns = [line.split(maxsplit=1) for line in text[2:-1]]
    assert len({line.index(said) for line, (_, said) in zip(text[2:-1], columns, strict=True)}) == 1, "they line up"
    assert [f"{name:9}{said}" for name, said in columns] == [
        "now      rollout, draw 2  12s",
        "reward   0.512  ▁▃▆█  +0.306 in 2 steps",
        "tasks    counting 0.61   own.py:Colour 0.41",
        "groups   30/40 with signal   12% easy   13% hard   alpha 1.33   draws 2",
        "answers  12% cut   6% unreadable   133 tokens long",
        "speed    1,234 tokens/s   35s a step   12.3 GiB   MFU 31%",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_large_numbers_and_long_names_stay_in_their_lines(width: int) -> None:
    by_task = {f"a-task-with-a-long-name-{n}": 0.5 for n in range(9)}
    large = {
        **METRICS,
        "groups": 100_000,
        "trained_groups": 99_999,
        "alpha": 1e5,
        "draws": 999,
        "reward_by_task": by_task,
    }
    state = replace(STATE, title="n" * 300, step=99_999, total_steps=100_000, rewards=(-12.3,) * 999, metrics=large)
    lines = lines_of(state, width)
    assert {len(line) for line in lines} == {width} and len(lines) == 9


def test_a_run_that_begins_or_ends() -> None:
    assert len(lines_of(LiveState("mine", 0, 5, "rollout"))) == 4
    ended = "\n".join(lines_of(replace(STATE, step=500, phase="", left=0.0)))
    assert "100%" in ended and "ETA" not in ended and "now" not in ended


def test_a_step_of_an_earlier_version_or_a_failed_one() -> None:
    """After a resume, the last step may be one that lacks numbers."""
    bare = {"groups": 4, "trained_groups": 0, "alpha": 0.0, "draws": 1, "seconds": {"step": 2.0}}
    text = "\n".join(lines_of(replace(STATE, rewards=(), metrics=bare)))
    assert "0/4 with signal" in text and "reward" not in text


def test_names_bring_no_escape_codes() -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\u202ebad\nname"
    state = replace(STATE, title=hostile, metrics={**METRICS, "reward_by_task": {hostile: 1.0, "b": 0.0}})
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    with console.capture() as captured:
        console.print(draw(state))
    text = captured.get()
    assert all(char.isprintable() or char == "\n" for char in text) and "bad name" in text


def test_bars_are_means_of_neighbours() -> None:
    assert draw_bars([0.0, 0.5, 1.0]) == "▁▅█"
    assert draw_bars([3.0, 3.0]) == "▁▁"
    assert draw_bars([0.0] * 60 + [1.0] * 60) == "▁" * 15 + "█" * 15
    assert all(len(draw_bars([float(n)] * n)) <= 30 for n in range(1, 100))


def test_the_trend_is_that_of_the_last_steps() -> None:
    assert describe_trend([0.0] * 3) == ""
    assert describe_trend([9.0] * 50 + [0.0] * 10 + [0.25] * 10) == "  +0.250 in 10 steps"
    assert describe_trend([1.0, 1.0, 0.0, 0.5]) == "  -0.750 in 2 steps"


# --- on a terminal ---


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Called in the test itself: pytest puts its own stream there before each."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")

    def open_here() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return open_here


CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_what_is_said_scrolls_above_the_display(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    display = LiveDisplay(STATE)
    display.start()
    say("note: \x1b[2Jsomething [bold]happened[/bold]")
    sys.stderr.write("\x1b[31mfrom a library\x1b[0m\nprogress 1\rprogress 2\r")
    assert not is_terminal(), "who asks shall write lines"
    display.show_phase("scoring")
    display.stop()
    said = CODES.sub("", terminal.getvalue())
    assert "note: something [bold]happened[/bold]\n" in said and "from a library\n" in said
    assert "\x1b[2J" not in terminal.getvalue() and "\x1b[31mfrom" not in terminal.getvalue()
    assert "scoring" in said and "progress 1" not in said
    assert sys.stderr is terminal and is_terminal()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l"), "the cursor is there"


def test_a_terminal_without_such_letters(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    terminal.encoding = "ascii"
    display = LiveDisplay(STATE)
    display.start()
    display.show_step(121, METRICS, 60.0)
    display.stop()
    text = CODES.sub("", terminal.getvalue())
    assert text.isascii() and "0.512" in text and "step 121 of 500" in text


def test_a_terminal_that_hangs_up_ends_nothing(open_terminal: Callable[[], Terminal], tmp_path: Path) -> None:
    terminal = open_terminal()
    log = RunLog(tmp_path, [], 0, 3)
    log.start_display()
    log.say_step(1, METRICS)
    terminal.is_gone = True
    log.show_phase("rollout")
    log.say_step(2, METRICS)
    log.say(2, "validation")
    log.close()
    assert sys.stderr is terminal


def test_the_reward_before_a_resume_is_read_from_the_log(open_terminal: Callable[[], Terminal], tmp_path: Path) -> None:
    terminal = open_terminal()
    rows = "".join(f'{{"step": {step}, "reward": {step / 10}}}\n' for step in range(1, 5))
    (tmp_path / "metrics.jsonl").write_text(rows + '"of somebody else"\n{"st')
    log = RunLog(tmp_path, [], 3, 9)
    log.start_display()
    log.say_step(4, {**METRICS, "reward": 0.5})
    log.close()
    assert "0.500  ▁▃▅█  +0.250 in 2 steps" in CODES.sub("", terminal.getvalue())


@pytest.mark.parametrize(("term", "is_painted"), [("xterm", True), ("dumb", False)])
def test_where_lines_cannot_be_replaced_a_step_is_a_line(
    open_terminal: Callable[[], Terminal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str, is_painted: bool
) -> None:
    terminal = open_terminal()
    monkeypatch.setenv("TERM", term)
    log = RunLog(tmp_path, [], 0, 3)
    log.start_display()
    log.say_step(1, METRICS)
    log.close()
    has_line = re.search(r"^step 1/3 .*reward 0.512", terminal.getvalue(), re.MULTILINE) is not None
    assert has_line is not is_painted and ("╭" in terminal.getvalue()) is is_painted
