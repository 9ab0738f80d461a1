"""The logs of a run: ``metrics.jsonl``, ``rollouts/STEP.jsonl``, trackers, and what stands on the screen.

The files are written in a thread (``log_writer``). Trackers are not: they may draw from the generators of this process.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpg_vl.files import replace_file
from gpg_vl.records import LoggedGroup, TrainingGroup
from gpg_vl.run.claim import check_claim
from gpg_vl.run.group_pictures import draw_groups
from gpg_vl.run.live_display import LiveDisplay, LiveState
from gpg_vl.run.log_writer import LogWriter
from gpg_vl.run.record import RECORD_FOLDER
from gpg_vl.run.step_metrics import step_line
from gpg_vl.run.trackers import Trackers
from gpg_vl.run.unwritable import Lacks
from gpg_vl.screen import can_be_painted, say

SKIPPED_FOLDER = "skipped"


METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FOLDER = "rollouts"
_OWN_ROLLOUTS = re.compile(r"\d{6,}\.jsonl")


class RunLog:
    """What cannot be written is said once and, for metrics, tried again: a run does not end over its log."""

    def __init__(
        self,
        output_dir: Path,
        trackers: Sequence[str],
        first_step: int,
        total_steps: int,
        is_silent: bool = False,
        recipe: Mapping[str, Any] | None = None,
    ):
        """Opens the log at ``first_step``; what an earlier process wrote about later steps is removed.

        Args:
            is_silent: write nothing, as on every rank except the first
            recipe: as plain values, for the trackers
        """
        self._is_silent = is_silent
        self.latest: dict[str, Any] = {}  # every metric's latest value
        self.earlier: list[dict[str, Any]] = []  # what an earlier process logged of the run
        self._display: LiveDisplay | None = None
        if is_silent:
            return
        self._output_dir = output_dir
        self._rollouts = output_dir / ROLLOUTS_FOLDER
        self._rollouts.mkdir(parents=True, exist_ok=True)
        self._total_steps = total_steps
        self._first_step = first_step
        self._start = time.perf_counter()
        self._unwritten = ""  # lines of metrics
        self._lacks = Lacks()
        self._writer = LogWriter()
        _keep_until(output_dir / METRICS_FILE, first_step)
        self.earlier = _read_rows(output_dir / METRICS_FILE) if first_step else []
        for path in self._rollouts.glob("*.jsonl"):
            if _OWN_ROLLOUTS.fullmatch(path.name) and int(path.stem) > first_step:
                path.unlink()
        self._trackers = Trackers(trackers, output_dir, first_step, recipe or {}, self._lacks)

    def start_display(self) -> None:
        """Paints the state of the run from now on, where standard error is a terminal; else each step has a line."""
        if self._is_silent or not can_be_painted():
            return
        rewards = tuple(row["reward"] for row in self.earlier if "reward" in row)
        sampled = [row for row in self.earlier if "groups" in row]
        state = LiveState(
            self._output_dir.name, self._first_step, self._total_steps, rewards=rewards,
            metrics=sampled[-1] if sampled else {},
        )  # fmt: skip
        with self._lacks.tolerated("the display"):
            display = LiveDisplay(state)
            display.start()
            self._display = display  # steps have their lines where it cannot be started

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``; nested dicts become ``a/b`` in trackers."""
        if self._is_silent:
            return
        check_claim(self._output_dir)
        self.latest |= {"step": step, **metrics}
        line = json.dumps({"step": step, **metrics}) + "\n"
        self._writer.give(partial(self._append_metrics, line))
        self._trackers.log(step, metrics)

    def _append_metrics(self, line: str) -> None:
        check_claim(self._output_dir)
        self._unwritten += line
        with self._lacks.tolerated(METRICS_FILE):
            _append(self._output_dir / METRICS_FILE, self._unwritten.encode())
            self._unwritten = ""

    def write_rollouts(self, step: int, groups: Sequence[LoggedGroup]) -> None:
        """Every sampled completion of the step with its reward, one line per group."""
        if self._is_silent:
            return
        check_claim(self._output_dir)
        self._writer.give(partial(self._replace_rollouts, step, groups))

    def _replace_rollouts(self, step: int, groups: Sequence[LoggedGroup]) -> None:
        check_claim(self._output_dir)
        text = "".join(json.dumps(_rollout_row(group), ensure_ascii=False) + "\n" for group in groups)
        with self._lacks.tolerated(ROLLOUTS_FOLDER):
            replace_file(self._rollouts / f"{step:06d}.jsonl", text)

    def flush(self) -> None:
        """Waits until the files hold all that was logged, or it was said why not.

        Raises:
            LostFolder: the folder is not the run's any more
        """
        if not self._is_silent:
            self._writer.flush()

    def write_pictures(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Some groups of a recorded step, for the trackers.

        Args:
            rows: as the record has them
        """
        if not self._is_silent and self._trackers.is_open:
            with self._lacks.tolerated("pictures"):
                self._trackers.show(step, draw_groups(rows, self._output_dir / RECORD_FOLDER))

    def show_phase(self, name: str) -> None:
        """What the run is doing, on a display."""
        if self._display is not None:
            with self._lacks.tolerated("the display"):
                self._display.show_phase(name)

    def say_step(self, step: int, metrics: dict[str, Any]) -> None:
        """Shows the step's numbers and the time left at the current pace: on the display, or as a line."""
        if self._is_silent:
            return
        done = step - self._first_step
        left = (time.perf_counter() - self._start) / max(1, done) * (self._total_steps - step)
        if self._display is None:
            say(step_line({"step": step, **metrics}, self._total_steps, left))
            return
        with self._lacks.tolerated("the display"):
            self._display.show_step(step, metrics, left)

    def say(self, step: int, text: str) -> None:
        """Prints a line that begins with the step."""
        if not self._is_silent:
            say(f"step {step}/{self._total_steps}  {text}")

    def close(self) -> None:
        """
        Raises:
            LostFolder: see ``flush``
        """
        if self._is_silent:
            return
        if self._display is not None:
            with self._lacks.tolerated("the display"):
                self._display.stop()
        self._trackers.close()
        self._writer.close()


def _append(path: Path, data: bytes) -> None:
    """All of it or, on a disk that fills up, nothing."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags | os.O_NONBLOCK, 0o666)  # which waits for no reader of a pipe
    try:
        end = os.fstat(file).st_size
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError:
            os.ftruncate(file, end)
            raise
    finally:
        os.close(file)


def dump_groups(groups: Sequence[TrainingGroup], path: Path) -> None:
    """The inputs of a step's update, one line per group: enough to run it again."""
    rows = [
        {
            "id": group.prompt.sample.id,
            "prompt": group.prompt.text,
            "prompt_tokens": group.prompt.encoded.token_ids,
            "completions": [completion.text for completion in group.completions],
            "completion_tokens": [completion.token_ids for completion in group.completions],
            "coefficients": group.coefficients,
        }
        for group in groups
    ]
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        say(f"note: {path} cannot be written ({error.strerror}); the run goes on")


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The lines that are the kit's own: others may have written there too.

    Raises:
        ValueError: a line is not JSON
    """
    return _read_rows(output_dir / METRICS_FILE)


def _rollout_row(group: LoggedGroup) -> dict[str, Any]:
    completions = [
        {"text": c.text, "tokens": len(c.token_ids), "finished": c.finished, "reward": r.total, "parts": r.parts,
         "status": r.status, **({"message": r.message} if r.message else {}),
         **({"extras": r.extras} if r.extras else {})}
        for c, r in zip(group.completions, group.rewards, strict=True)
    ]  # fmt: skip
    return {
        "id": group.sample_id,
        "task": group.task,
        "prompt": group.prompt_text,
        "answer": group.answer,
        "trained": group.is_trained,
        "completions": completions,
    }


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that are the kit's own."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    rows = (json.loads(line) for line in lines if line)
    return [row for row in rows if isinstance(row, dict) and type(row.get("step")) is int]


def _keep_until(path: Path, step: int) -> None:
    """Removes lines of later steps, and a line that a crash left incomplete."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    replace_file(path, "".join(f"{line}\n" for line in lines if _is_kept(line, step)))


def _is_kept(line: str, step: int) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not isinstance(row, dict) or not isinstance(row.get("step"), int) or row["step"] <= step
