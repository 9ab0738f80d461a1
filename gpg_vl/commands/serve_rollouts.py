"""``gpg-vl serve-rollouts``: a vLLM engine that runs ask for completions (``rollout.engine: vllm``).

It runs in an environment with vllm, on this machine or another one that sees the same folder.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpg_vl.config import VllmConfig
from gpg_vl.models.folder.paths import ADAPTER_CONFIG, resolve_model_path
from gpg_vl.rollout.served.server import RolloutServer
from gpg_vl.rollout.served.service import Backend, Service
from gpg_vl.rollout.served.shared_folder import make_token
from gpg_vl.rollout.served.vllm_backend import EngineOptions, start_backend
from gpg_vl.screen import say

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EPILOG = "It needs vllm: make setup-vllm, or the extra [vllm] (docs/rollout-engines.md)."
_WEIGHTS = VllmConfig().weights


@dataclass(frozen=True, slots=True)
class ServedModel:
    path: str  # folder, or name on the hub
    revision: str | None = None  # of a name on the hub


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Where a server listens, and the folder that it shares with runs."""

    host: str
    port: int
    weights: Path


def read_options(parser: ArgumentParser, words: list[str]) -> tuple[ServedModel, ServerPlace, EngineOptions]:
    """
    Raises:
        ValueError: an option is wrong
    """
    parser.add_argument("model", help="model folder, or name on the hub: the one that the run starts from")
    parser.add_argument("--revision", help="of a name on the hub: the run's model.revision")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8470, help="(default 8470)")
    parser.add_argument("--weights", default=_WEIGHTS, help=f"the run's rollout.vllm.weights (default {_WEIGHTS})")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="the run's model.dtype")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and completion (default: the model's)")
    parser.add_argument("--max-images", type=int, default=8, help="most images of a prompt (default 8)")
    parser.add_argument("--gpu-memory", type=float, default=0.85, help="share of a GPU that the engine takes (0.85)")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share the model (default 1)")
    parser.add_argument("--eager", action="store_true", help="no compilation and no CUDA graphs: it starts sooner")
    o = parser.parse_args(words)
    options = EngineOptions(o.dtype, o.max_model_len, o.max_images, o.gpu_memory, o.tensor_parallel, o.eager)
    return ServedModel(o.model, o.revision), ServerPlace(o.host, o.port, Path(o.weights)), options


def serve_rollouts(model: ServedModel, place: ServerPlace, options: EngineOptions) -> int:
    """Serves until a signal asks it to stop: 0; or until the engine fails: 1.

    Raises:
        ValueError: there is no model, no vllm, too little memory for it, or the address is taken
        SystemExit: a signal has come while the model was loaded; of code 0
    """
    path = resolve_model_path(model.path, model.revision)
    if (Path(path) / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{model.path} is a LoRA adapter; name its model: the run publishes the merged weights")
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("vllm is not installed here; make setup-vllm makes an environment with it")
    token = make_token(place.weights)
    _end_on_signals(sys.exit)
    return run_server(lambda: start_backend(path, options, "--gpu-memory or --max-model-len"), place, token)


def run_server(start: Callable[[], Backend], place: ServerPlace, token: str) -> int:
    """See ``serve_rollouts``. The address is taken before the engine starts, which takes minutes."""
    with _naming(place):
        server = RolloutServer((place.host, place.port), token)
    with server:
        service = Service(start(), place.weights.resolve())
        with _naming(place):
            server.open(service)
        # shutdown waits for the loop, which this thread runs
        _end_on_signals(lambda: threading.Thread(target=server.shutdown, daemon=True).start())
        host = f"[{place.host}]" if ":" in place.host else place.host
        say(f"serving rollouts at http://{host}:{server.server_address[1]}, weights in {place.weights}")
        if place.host not in LOOPBACK:
            say("note: what goes over this address is not encrypted; use it in a network of your own alone")
        server.serve_forever()
    return int(service.has_failed)


@contextmanager
def _naming(place: ServerPlace) -> Iterator[None]:
    """
    Raises:
        ValueError: the address cannot be used
    """
    try:
        yield
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {place.host} --port {place.port} cannot be used ({error}); give others") from error


def _end_on_signals(end: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end())
