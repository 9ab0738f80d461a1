"""The command that serves rollouts, without vllm: options, mistakes, signals."""

from __future__ import annotations

import importlib.util
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import cli
from gpg_vl.commands import serve_rollouts
from gpg_vl.commands.serve_rollouts import ServerPlace, run_server
from gpg_vl.rollout.served.client import Client
from gpg_vl.rollout.served.shared_folder import make_token
from tests.support.messages import lines_naming
from tests.support.rollout_servers import TinyBackend


def test_without_vllm_it_says_how_to_get_it(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["serve-rollouts", str(model_folders["qwen2_vl"])]) == 2
    assert lines_naming(capsys.readouterr().err, "vllm", "make setup-vllm")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve-rollouts", "./none"]) == 2
    assert lines_naming(capsys.readouterr().err, "none")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    assert cli.main(["serve-rollouts", "adapter"]) == 2
    assert lines_naming(capsys.readouterr().err, "LoRA adapter")
    assert cli.main(["serve-rollouts", "adapter", "--dtype", "float16"]) == 2
    assert lines_naming(capsys.readouterr().err, "--dtype")


def test_a_port_that_is_taken_is_told(load: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}"):
            run_server(TinyBackend(load()), ServerPlace("127.0.0.1", port, tmp_path), make_token(tmp_path))


def test_it_serves_until_a_signal(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(serve_rollouts.signal, "signal", handlers.__setitem__)
    found: dict[str, Any] = {}

    def use() -> None:
        while "http://" not in (text := capsys.readouterr().err):
            time.sleep(0.05)
        url = text.split("serving rollouts at ")[1].split(",")[0]
        found.update(Client(url, make_token(tmp_path), 20.0, 300).status())
        handlers[signal.SIGTERM]()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert run_server(TinyBackend(load()), ServerPlace("127.0.0.1", 0, tmp_path), make_token(tmp_path)) == 0
    thread.join(20)
    assert found["engine"] == "tiny"
    assert set(handlers) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
