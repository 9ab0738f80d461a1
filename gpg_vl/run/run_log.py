"""The logs of a run: ``metrics.jsonl``, ``rollouts/STEP.jsonl``, tensorboard, and a line per step on screen."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpg_vl.errors import first_line
from gpg_vl.files import replace_file
from gpg_vl.records import LoggedGroup, TrainingGroup
from gpg_vl.run.claim import LostFolder, check_claim
from gpg_vl.run.step_metrics import step_line
from gpg_vl.screen import say

SKIPPED_FOLDER = "skipped"


METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FOLDER = "rollouts"
_OWN_ROLLOUTS = re.compile(r"\d{6,}\.jsonl")


class RunLog:
    """What cannot be written is said once and, for metrics, tried again: a run does not end over its log."""

    def __init__(
        self, output_dir: Path, trackers: Sequence[str], first_step: int, total_steps: int, is_silent: bool = False
    ):
        """Opens the log at ``first_step``; what an earlier process wrote about later steps is removed.

        Args:
            is_silent: write nothing, as on every rank except the first
        """
        self._is_silent = is_silent
        self._tensorboard: Any = None
        self.latest: dict[str, Any] = {}  # every metric's latest value
        if is_silent:
            return
        self._output_dir = output_dir
        self._rollouts = output_dir / ROLLOUTS_FOLDER
        self._rollouts.mkdir(parents=True, exist_ok=True)
        self._total_steps = total_steps
        self._first_step = first_step
        self._start = time.perf_counter()
        self._unwritten = ""  # lines of metrics
        self._lacks: set[str] = set()  # what was said
        _keep_until(output_dir / METRICS_FILE, first_step)
        for path in self._rollouts.glob("*.jsonl"):
            if _OWN_ROLLOUTS.fullmatch(path.name) and int(path.stem) > first_step:
                path.unlink()
        if "tensorboard" in trackers:
            with self._going_on("tensorboard"):
                self._tensorboard = _open_tensorboard(output_dir, first_step)

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Says once what failed; a folder that is lost ends the run."""
        try:
            yield
        except LostFolder:
            raise
        except Exception as error:  # noqa: BLE001  a tracker raises what it likes
            if what not in self._lacks:
                self._lacks.add(what)
                say(f"note: {what} cannot be written ({first_line(error)}); the run goes on")

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``; nested dicts become ``a/b`` in tensorboard."""
        if self._is_silent:
            return
        check_claim(self._output_dir)
        self.latest |= {"step": step, **metrics}
        self._unwritten += json.dumps({"step": step, **metrics}) + "\n"
        with self._going_on(METRICS_FILE):
            _append(self._output_dir / METRICS_FILE, self._unwritten.encode())
            self._unwritten = ""
        if self._tensorboard is not None:
            with self._going_on("tensorboard"):
                for name, value in _flatten(metrics):
                    self._tensorboard.add_scalar(name, value, step)
                self._tensorboard.flush()

    def write_rollouts(self, step: int, groups: Sequence[LoggedGroup]) -> None:
        """Every sampled completion of the step with its reward, one line per group."""
        if self._is_silent:
            return
        check_claim(self._output_dir)
        text = "".join(json.dumps(_rollout_row(group), ensure_ascii=False) + "\n" for group in groups)
        with self._going_on(ROLLOUTS_FOLDER):
            replace_file(self._rollouts / f"{step:06d}.jsonl", text)

    def say_step(self, step: int, metrics: dict[str, Any]) -> None:
        """Prints a line with the step's numbers and the time left at the current pace."""
        if self._is_silent:
            return
        done = step - self._first_step
        left = (time.perf_counter() - self._start) / max(1, done) * (self._total_steps - step)
        say(step_line({"step": step, **metrics}, self._total_steps, left))

    def say(self, step: int, text: str) -> None:
        """Prints a line that begins with the step."""
        if not self._is_silent:
            say(f"step {step}/{self._total_steps}  {text}")

    def close(self) -> None:
        if self._tensorboard is not None:
            with self._going_on("tensorboard"):
                self._tensorboard.close()


def _open_tensorboard(output_dir: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_step + 1)


def _append(path: Path, data: bytes) -> None:
    """All of it or, on a disk that fills up, nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
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
    return [json.loads(line) for line in (output_dir / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


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


def _flatten(metrics: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat.append((prefix + name, float(value)))
    return flat


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
