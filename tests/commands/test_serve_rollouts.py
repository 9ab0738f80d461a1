"""The command that serves rollouts, without vllm: options, mistakes, signals."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl import cli
from gpg_vl.commands import serve_rollouts
from gpg_vl.commands.serve_rollouts import ServerPlace, run_server
from gpg_vl.rollout.served import vllm_backend
from gpg_vl.rollout.served.client import Client
from gpg_vl.rollout.served.shared_folder import make_token
from tests.support.messages import lines_naming
from tests.support.rollout_servers import TinyBackend

ROOT = Path(__file__).parents[2]


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


def test_an_engine_that_does_not_fit_names_the_options(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")

    monkeypatch.setattr(vllm_backend, "VllmBackend", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(serve_rollouts.signal, "signal", lambda *_: None)
    assert cli.main(["serve-rollouts", str(model_folders["qwen2_vl"]), "--weights", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert lines_naming(said, "out of memory", "2.00 GiB", "lower --gpu-memory or --max-model-len")
    assert "rollout." not in said and "update." not in said


SLOW = """
import importlib.util, sys, time
from gpg_vl import cli
from gpg_vl.rollout.served import vllm_backend

class Backend:
    def __init__(self, *_):
        print("loading", flush=True)
        time.sleep(seconds)

    def describe(self):
        return {}

seconds = float(sys.argv.pop(1))
vllm_backend.VllmBackend = Backend
importlib.util.find_spec = lambda name: name
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command with an engine that takes some seconds to load."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [600, 0])
def test_a_signal_ends_it_with_0_at_any_time(
    model_folders: dict[str, Path], tmp_path: Path, number: signal.Signals, seconds: int
) -> None:
    """While the model is loaded, and while it serves; at an address of IPv6."""
    words = ["serve-rollouts", str(model_folders["qwen2_vl"]), "--host", "::1", "--port", "0", "--weights"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(seconds), *words, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        awaited = "loading" if seconds else "serving rollouts at http://[::1]:"
        assert any(awaited in line for line in process.stdout), process.wait(20)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "Traceback" not in said, said
    finally:
        process.kill()


def load_nothing() -> Any:
    raise AssertionError("the model is loaded")


def test_an_address_that_cannot_be_used_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}"):
            run_server(load_nothing, ServerPlace("127.0.0.1", port, tmp_path), make_token(tmp_path))
    with pytest.raises(ValueError, match=r"--host 192\.0\.2\.1"):  # of no machine
        run_server(load_nothing, ServerPlace("192.0.2.1", 0, tmp_path), make_token(tmp_path))


def test_nobody_waits_for_a_server_that_loads_its_model(tmp_path: Path) -> None:
    """Whoever connects is refused, and comes again; another server that was quicker has the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def load_slowly() -> Any:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=20)
        quicker.append(socket.create_server(("127.0.0.1", port)))

    quicker: list[socket.socket] = []
    with pytest.raises(ValueError, match=f"--port {port}"):
        run_server(load_slowly, ServerPlace("127.0.0.1", port, tmp_path), make_token(tmp_path))
    quicker[0].close()


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
        found["status"] = Client(url, make_token(tmp_path), 20.0, 300).status()
        handlers[signal.SIGTERM]()

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    assert run_server(lambda: TinyBackend(load()), ServerPlace("127.0.0.1", 0, tmp_path), make_token(tmp_path)) == 0
    thread.join(20)
    assert found["status"].engine == "tiny"
    assert set(handlers) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
