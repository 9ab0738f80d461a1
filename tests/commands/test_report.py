"""`gpg-vl report`: a page, plots, or one line on what is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gpg_vl.cli import main
from tests.support.messages import naming
from tests.support.recorded_runs import scored_group, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine", [0.2, 0.4], [scored_group(["<answer>4</answer>", "5"], [1, 0])])


def test_a_page_is_written_into_the_run_or_where_it_is_wanted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run}/report.html\n"
    other = write_run(tmp_path / "other", [0.3])
    assert main(["report", str(run), str(other), "--out", str(tmp_path / "new/both.html")]) == 0
    assert "<title>GPG-VL: mine, other</title>" in (tmp_path / "new/both.html").read_text()


def test_plots(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--png", str(tmp_path / "png")]) == 0
    assert f"wrote {tmp_path}/png/reward.png" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["none"], ["none", "run.output_dir"]),
        (["mine", "mine"], ["twice"]),
        (["mine", "./mine/"], ["twice"]),
        (["mine", "--eval", "none"], ["none", "gpg-vl eval"]),
        (["mine", "--out", "mine"], ["--out", "mine"]),
        (["mine", "--out", "mine/metrics.jsonl"], ["--out", "metrics.jsonl"]),
        (["mine", "--out", "mine/recipe.yaml"], ["--out", "recipe.yaml"]),
        (["mine", "--serve", "--port", "99999"], ["--port"]),
    ],
)
def test_mistakes_are_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], named: list[str]
) -> None:
    monkeypatch.chdir(run.parent)
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["report", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(naming(*named), line)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_it_is_served_until_it_is_interrupted(run: Path) -> None:
    command = [sys.executable, "-m", "gpg_vl", "report", str(run), "--serve", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = server.stderr.readline().split()[0]
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert "GPG-VL: mine" in answer.read().decode()
    server.send_signal(signal.SIGINT)
    assert server.wait(30) in (130, -signal.SIGINT)
    assert "Traceback" not in server.stderr.read()
