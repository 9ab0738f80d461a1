"""The logs of a run: ``metrics.jsonl``, ``rollouts/STEP.jsonl``, tensorboard, and a line per step on screen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from gpg_vl.files import replace_file
from gpg_vl.records import LoggedGroup, TrainingGroup
from gpg_vl.run.step_metrics import step_line

SKIPPED_FOLDER = "skipped"


class RunLog:
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
        self._metrics_path = output_dir / "metrics.jsonl"
        self._rollouts = output_dir / "rollouts"
        self._rollouts.mkdir(parents=True, exist_ok=True)
        self._total_steps = total_steps
        self._first_step = first_step
        self._start = time.perf_counter()
        _keep_until(self._metrics_path, first_step)
        for path in self._rollouts.glob("*.jsonl"):
            if int(path.stem) > first_step:
                path.unlink()
        if "tensorboard" in trackers:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``; nested dicts become ``a/b`` in tensorboard."""
        if self._is_silent:
            return
        self.latest |= {"step": step, **metrics}
        with _named_errors(self._metrics_path), self._metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._tensorboard is not None:
            with _named_errors(Path(self._tensorboard.log_dir)):
                for name, value in _flatten(metrics):
                    self._tensorboard.add_scalar(name, value, step)
                self._tensorboard.flush()

    def write_rollouts(self, step: int, groups: Sequence[LoggedGroup]) -> None:
        """Every sampled completion of the step with its reward, one line per group."""
        if self._is_silent:
            return
        path = self._rollouts / f"{step:06d}.jsonl"
        with _named_errors(path), _open_text(path) as file:
            for group in groups:
                file.write(json.dumps(_rollout_row(group), ensure_ascii=False) + "\n")

    def say_step(self, step: int, metrics: dict[str, Any]) -> None:
        """Prints a line with the step's numbers and the time left at the current pace."""
        if self._is_silent:
            return
        done = step - self._first_step
        left = (time.perf_counter() - self._start) / max(1, done) * (self._total_steps - step)
        print(step_line({"step": step, **metrics}, self._total_steps, left), file=sys.stderr, flush=True)

    def say(self, step: int, text: str) -> None:
        """Prints a line that begins with the step."""
        if not self._is_silent:
            print(f"step {step}/{self._total_steps}  {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


def dump_groups(groups: Sequence[TrainingGroup], path: Path) -> None:
    """The inputs of a step's update, one line per group: enough to run it again."""
    path.parent.mkdir(exist_ok=True)
    with _named_errors(path), _open_text(path) as file:
        for group in groups:
            row = {
                "id": group.prompt.sample.id,
                "prompt": group.prompt.text,
                "prompt_tokens": group.prompt.encoded.token_ids,
                "completions": [completion.text for completion in group.completions],
                "completion_tokens": [completion.token_ids for completion in group.completions],
                "coefficients": group.coefficients,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Makes disk errors name the file; Python's own do not if the disk is full."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{path} could not be written: {error}") from error


def _open_text(path: Path) -> TextIO:
    """Half of a surrogate pair, which a row may contain but UTF-8 cannot, is escaped as in JSON."""
    return path.open("w", encoding="utf-8", errors="backslashreplace")


def read_metrics(output_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


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
    """Removes lines of later steps, and a last line that a crash left incomplete."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            kept.append(line + "\n")
    replace_file(path, "".join(kept))
