"""Stored completions of the size of GEOQA: what they score does not depend on the machine, and does not take long."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clock import slowness
from tests.support.shared_data import shared_file

NUM = 754


def write_geoqa_answers(path: Path) -> Path:
    """A completion for each published question: 800 characters of steps with formulas, then an answer."""
    rng = random.Random(0)
    lines = shared_file("geoqa_test_prompts.jsonl").read_text().splitlines()
    with path.open("w") as file:
        for row in map(json.loads, lines):
            steps = [
                rf"Since $\angle {name} = {rng.randint(10, 170)}^\circ$ and \( \frac{{{rng.randint(1, 9)}}}{{7}} \)"
                rf" of $\sqrt{{{rng.randint(2, 99)}}}$, we get \( x = {rng.randint(10, 180)} - {rng.randint(1, 90)} \)."
                for name in "ABCDEF"
            ]
            answer = row["ground_truth"] if rng.random() < 0.5 else str(rng.randint(1, 180))
            endings = ("</think><answer> {} </answer>", "</think><answer> ${}$ </answer>", r" So it is \boxed{{{}}}.")
            text = f"<think>{row['question']} {' '.join(steps)}" + rng.choice(endings).format(answer)
            file.write(json.dumps({"completion": text, "answer": row["ground_truth"]}) + "\n")
    return path


def processor_seconds() -> float:
    """Of all processes below this one that have ended, and of those below them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_size_of_geoqa_is_scored_within_20_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, from the start of the interpreter. Processor time, which a busy machine hardly changes: on two
    idle cores the command takes less than that. Seen: 11.5 to 12.8 s, of which 7 s
    are imports."""
    words = ["--completions", str(write_geoqa_answers(tmp_path / "rows.jsonl")), "--out", str(tmp_path / "out")]
    before, slow = processor_seconds(), slowness()
    ended = subprocess.run(
        [sys.executable, "-m", "eval.geoqa", *words], capture_output=True, text=True, timeout=280, check=False
    )
    seconds = processor_seconds() - before
    assert ended.returncode == 0, ended.stderr
    with capsys.disabled():
        print(f"{NUM} stored completions: {seconds:.1f} s of processor time")
    assert seconds < 20 * max(slow, slowness())
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["num_rows"] == {"test": {"num": NUM, "dropped": 0, "published": NUM}}
    assert results["tasks"]["geometry"]["num_legacy_failures"] == 0
    assert 0.3 < results["figures"]["Accuracy"]["legacy"]["value"] < 0.7
