"""`gpg-vl doctor`: what it says of a machine, and of one where something does not work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from gpg_vl.commands.machine import (
    check_hub,
    check_space,
    check_versions,
    lack_of,
)
from tests.support.messages import lines_naming


def test_versions_are_compared_with_the_tested_ranges() -> None:
    found = check_versions()
    assert found.state == "ok"
    assert f"torch {torch.__version__.split('+')[0]}" in found.text
    assert lack_of(Requirement("numpy>=2")) is None
    assert naming_in(lack_of(Requirement("numpy<1")), "numpy", "<1")
    assert naming_in(lack_of(Requirement("no-such-library>=3")), "no-such-library", "missing")


def naming_in(text: str | None, *parts: str) -> list[str]:
    return lines_naming(text or "", *parts)


def test_little_space_is_named_with_what_helps(tmp_path: Path) -> None:
    assert check_space("disk", tmp_path, 1, "hint").state == "ok"
    little = check_space("disk", tmp_path, 1e18, "use another")
    assert little.state == "missing" and lines_naming(little.text, tmp_path, "use another")
    assert check_space("shared memory", tmp_path / "no", 1, "hint").state == "missing"


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_the_hub_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", server)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert lines_naming(check_hub().text, "HF_HUB_OFFLINE") and check_hub().state == "missing"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert check_hub().state == "ok"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert lines_naming(check_hub().text, "HF_ENDPOINT", "http://127.0.0.1:9") and check_hub().state == "missing"


def doctor(path: Path) -> subprocess.CompletedProcess[str]:
    """``gpg-vl doctor`` where Python also finds what is in ``path``."""
    environment = {**os.environ, "PYTHONPATH": f"{path}:{Path(__file__).parents[2]}"}
    words = [sys.executable, "-m", "gpg_vl", "doctor"]
    return subprocess.run(words, env=environment, cwd=path, capture_output=True, text=True, check=False)


@pytest.mark.faults
def test_a_machine_that_can_train(tmp_path: Path) -> None:
    ran = doctor(tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    states = {line.split()[1]: line.split()[0] for line in ran.stdout.splitlines()}
    assert {"versions", "ranks", "FSDP2", "DeepSpeed", "disk", "self-test"} <= {
        k for k, v in states.items() if v == "ok"
    }
    assert {"GPU", "shared", "hub", "bitsandbytes", "attention"} <= set(states)


def test_a_machine_that_cannot_ends_with_another_code(tmp_path: Path) -> None:
    """An old version, and a library that cannot be imported."""
    (tmp_path / "ijson-1.0.dist-info").mkdir()
    (tmp_path / "ijson-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: ijson\nVersion: 1.0\n")
    (tmp_path / "accelerate.py").write_text("raise RuntimeError('libcudart.so.13: no such file')")
    ran = doctor(tmp_path)
    assert ran.returncode == 1
    versions, libraries = [line for line in ran.stdout.splitlines() if line.startswith("fails")]
    assert lines_naming(versions, "ijson 1.0", "constraints.txt")
    assert lines_naming(libraries, "libcudart.so.13: no such file")
