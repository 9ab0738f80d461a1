"""The state of a run, painted in place on a terminal: what it is doing, how the reward goes, how long it will take.

Whatever else is said meanwhile scrolls above it, cleaned of escape codes like everything that a row or a model named.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpg_vl.run.step_metrics import brief_seconds, mean
from gpg_vl.screen import paint, printable

_BARS = "▁▂▃▄▅▆▇█"
_MAX_BARS = 30
_STEPS_OF_TREND = 10
_REFRESHES_PER_SECOND = 2


@dataclass(frozen=True, slots=True)
class LiveState:
    """What is shown."""

    title: str
    step: int  # finished ones
    total_steps: int
    phase: str = ""  # empty: it has ended
    phase_seconds: float = 0.0
    left: float | None = None  # seconds to the end of the run
    rewards: tuple[float, ...] = ()  # of the steps so far
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the last step that sampled


def draw(state: LiveState, can_draw_bars: bool = True) -> Panel:
    """The panel. Lines that a run has no numbers for are left out."""
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    left = f"   ETA {brief_seconds(state.left)}" if state.left else ""
    head.add_row(
        ProgressBar(total=state.total_steps, completed=state.step),
        f"{state.step / state.total_steps:.0%}{left}",
    )
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True, min_width=len("answers"))
    lines.add_column(no_wrap=True, overflow="ellipsis")
    for name, text in _lines(state, can_draw_bars):
        lines.add_row(name, text)
    title = Text(printable(f"{state.title}: step {state.step} of {state.total_steps}"), overflow="ellipsis")
    return Panel(Group(head, lines), title=title, title_align="left", box=box.ROUNDED, padding=(0, 1))


def _lines(state: LiveState, can_draw_bars: bool) -> Iterator[tuple[str, Text]]:
    row = state.metrics
    if state.phase:
        yield "now", Text(f"{state.phase}  {brief_seconds(state.phase_seconds)}")
    if state.rewards:
        bars = f"  {draw_bars(state.rewards)}" if can_draw_bars else ""
        yield "reward", Text.assemble((f"{state.rewards[-1]:.3f}", "bold"), bars, describe_trend(state.rewards))
    if len(row.get("reward_by_task", {})) > 1:
        yield "tasks", Text("   ".join(_short(task, reward) for task, reward in row["reward_by_task"].items()))
    if "groups" in row:
        yield "groups", _describe_groups(row)
        yield "answers", Text(_describe_answers(row))
        yield "speed", Text(_describe_speed(row))


def _describe_groups(row: Mapping[str, Any]) -> Text:
    num = row["trained_groups"]
    signal = Text(f"{num}/{row['groups']} with signal", style="bold" if num else "red")
    shares = {name: f"{share:.0%} {name}" for name, share in row.get("group_shares", {}).items() if name != "signal"}
    counts = [f"alpha {row['alpha']:.2f}", f"draws {row['draws']}"]
    return Text("   ").join([signal, *map(Text, [*shares.values(), *counts])])


def _describe_answers(row: Mapping[str, Any]) -> str:
    statuses = row.get("status", {})
    unreadable = statuses.get("unparsable", 0) / max(1, sum(statuses.values()))
    cut = 1 - row.get("finished", 1.0)
    return f"{cut:.0%} cut   {unreadable:.0%} unreadable   {row.get('completion_tokens', math.nan):.0f} tokens long"


def _describe_speed(row: Mapping[str, Any]) -> str:
    speed = row.get("speed", {})
    parts = [
        f"{speed['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in speed else "",
        f"{brief_seconds(row['seconds']['step'])} a step",
        f"{speed['peak_memory_gib']:.1f} GiB" if "peak_memory_gib" in speed else "",
        f"MFU {speed['mfu']:.0%}" if "mfu" in speed else "",
    ]
    return "   ".join(filter(None, parts))


def _short(task: str, reward: float) -> str:
    """A task of the user's own is named by its path."""
    return printable(f"{task.rpartition('/')[2]} {reward:.2f}")


def draw_bars(values: Sequence[float]) -> str:
    """All of them as one row of bars, the means of neighbours where there are many.

    >>> draw_bars([0.0, 0.5, 1.0])
    '▁▅█'
    """
    size = math.ceil(len(values) / _MAX_BARS)
    means = [mean(values[start : start + size]) for start in range(0, len(values), size)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((each - low) * scale + 1e-9)] for each in means)


def describe_trend(values: Sequence[float]) -> str:
    """How the mean of the last steps differs from that of as many before; empty while there are too few."""
    count = min(_STEPS_OF_TREND, len(values) // 2)
    if count < 2:
        return ""
    change = mean(values[-count:]) - mean(values[-2 * count : -count])
    return f"  {change:+.3f} in {count} steps"


class LiveDisplay:
    """Paints on standard error until ``stop``, and from a thread of its own, so that seconds pass in a long rollout."""

    def __init__(self, state: LiveState):
        self._stream: TextIO = sys.stderr
        self._console = Console(file=cast(TextIO, _Painted(self._stream)))
        self._state = state
        self._phase_start = time.monotonic()
        self._live = Live(
            console=self._console, get_renderable=self._draw, refresh_per_second=_REFRESHES_PER_SECOND,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def start(self) -> None:
        self._live.start()
        self._console.show_cursor()  # it would stay hidden if the process is killed
        sys.stderr = _LinesAbove(self._console, self._stream)

    def stop(self) -> None:
        self._state = replace(self._state, phase="")
        if isinstance(sys.stderr, _LinesAbove):
            sys.stderr.write_rest()
            sys.stderr = self._stream
        self._live.stop()

    def show_phase(self, name: str) -> None:
        self._phase_start = time.monotonic()
        self._state = replace(self._state, phase=name)
        self._live.refresh()

    def show_step(self, step: int, metrics: Mapping[str, Any], left: float) -> None:
        """
        Args:
            left: seconds to the end of the run
        """
        state = replace(self._state, step=step, left=left)
        if "groups" in metrics:
            rewards = (*state.rewards, metrics["reward"]) if "reward" in metrics else state.rewards
            state = replace(state, rewards=rewards, metrics=metrics)
        self._state = state
        self._live.refresh()

    def _draw(self) -> Panel:
        state = replace(self._state, phase_seconds=time.monotonic() - self._phase_start)
        return draw(state, can_draw_bars=not self._console.options.ascii_only)


class _Painted(io.TextIOBase):
    """A terminal as rich writes to it. One that hung up ends nothing."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        paint(self._stream, text)
        return len(text)

    def isatty(self) -> bool:
        return True


class _LinesAbove(io.TextIOBase):
    """Standard error while the display is there: whole lines, cleaned, above it. Who asks is told of no terminal."""

    def __init__(self, console: Console, stream: TextIO):
        self._console = console
        self._stream = stream
        self._unfinished = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        *lines, rest = (self._unfinished + text).split("\n")
        self._unfinished = rest.rpartition("\r")[2]  # what a line that is written over ends up as
        for line in lines:
            self._console.print(Text(printable(line.rstrip("\r"))))
        return len(text)

    def write_rest(self) -> None:
        """A last line without an end, as an error's may be."""
        if self._unfinished:
            self.write("\n")

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()
