"""Rollout servers of the tests: the kit's HTTP server before a tiny model, and servers that give canned answers."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from gpg_vl.config import ModelConfig
from gpg_vl.models import load_adapter
from gpg_vl.models.base import BaseAdapter
from gpg_vl.models.plain_rows import plain_log_probs
from gpg_vl.records import Prompt, RolloutGroup, Sample
from gpg_vl.rollout.hf import HfEngine
from gpg_vl.rollout.served.engine_weights import WEIGHTS_FILE
from gpg_vl.rollout.served.messages import AnsweredCompletion, AnsweredGroup, AskedPrompt, Request
from gpg_vl.rollout.served.server import MOST_CONNECTIONS, RolloutServer
from gpg_vl.rollout.served.service import Backend, Service
from gpg_vl.rollout.served.shared_folder import make_token

_LOADING = threading.Lock()  # transformers changes what torch does while it loads, for every thread


def load_published(folder: Path, config: ModelConfig) -> BaseAdapter:
    """The model of ``config.path`` with published weights, as transformers loads a model folder."""
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place)
        for path in Path(config.path).iterdir():
            if path.suffix != ".safetensors":
                shutil.copy(path, whole)
        shutil.copy(folder / WEIGHTS_FILE, whole)
        with _LOADING:
            adapter = load_adapter(replace(config, path=place, lora=None))
    assert isinstance(adapter, BaseAdapter)
    return adapter


class TinyBackend:
    """A model of its own that samples with the engine ``hf``, from nothing but what a request says."""

    def __init__(self, adapter: BaseAdapter):
        self.adapter = adapter
        self.num_loads = 0

    def describe(self) -> Mapping[str, str | int]:
        return {"engine": "tiny", "dtype": self.adapter.config.dtype, "context_length": 512, "max_images": 8}

    def load_weights(self, folder: Path) -> None:
        self.adapter.model.load_state_dict(load_published(folder, self.adapter.config).model.state_dict())
        self.num_loads += 1

    def generate(self, request: Request) -> list[AnsweredGroup]:
        prompts = [self._prompt(n, asked) for n, asked in enumerate(request.prompts)]
        seeds = [("served", asked.seed) for asked in request.prompts]
        engine = HfEngine(self.adapter, 2**16)
        groups = engine.generate(prompts, request.group_size, request.sampling, seeds, keep_log_probs=True)
        return [
            AnsweredGroup(
                len(group.prompt.encoded.token_ids),
                tuple(AnsweredCompletion(each.token_ids, each.log_probs or ()) for each in group.completions),
            )
            for group in groups
        ]

    def _prompt(self, number: int, asked: AskedPrompt) -> Prompt:
        """The prompt made anew: its image tokens come from the sizes of the pictures, as in vLLM."""

        images = [Image.frombytes("RGB", (each.width, each.height), each.rgb) for each in asked.pictures]
        views = [self.adapter.view(*image.size) for image in images]
        text = self.adapter.tokenizer.decode(asked.short_token_ids)
        encoded = self.adapter.encode(text, images, views)
        return Prompt(Sample(str(number), "any", (), "", ""), text, encoded, tuple(views))


class SmallBackend(TinyBackend):
    """Holds little."""

    def __init__(self, adapter: BaseAdapter, context_length: int = 64, max_images: int = 1):
        super().__init__(adapter)
        self.limits = {"context_length": context_length, "max_images": max_images}
        self.num_asked = 0

    def describe(self) -> Mapping[str, str | int]:
        return {**super().describe(), **self.limits}

    def generate(self, request: Request) -> list[AnsweredGroup]:
        self.num_asked += 1
        return super().generate(request)


class SleepingTiny(TinyBackend):
    """Asleep it has no weights, as an engine that has freed them; it takes them from memory alone."""

    def __init__(self, adapter: BaseAdapter):
        super().__init__(adapter)
        self.num_shut_down = 0
        self.is_awake = True
        self.sleep()

    def sleep(self) -> None:
        assert self.is_awake
        self.is_awake = False
        with torch.no_grad():
            for parameter in self.adapter.model.parameters():
                parameter.zero_()

    def wake(self) -> None:
        assert not self.is_awake
        self.is_awake = True

    def shut_down(self) -> None:
        self.num_shut_down += 1

    def take_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        assert self.is_awake
        with tempfile.TemporaryDirectory() as place:
            save_file(dict(weights), Path(place) / WEIGHTS_FILE, metadata={"format": "pt"})
            super().load_weights(Path(place))

    def load_weights(self, folder: Path) -> None:
        raise AssertionError("it is given them")

    def generate(self, request: Request) -> list[AnsweredGroup]:
        assert self.is_awake
        return super().generate(request)


@contextmanager
def serving(
    backend: Backend, weights: Path, port: int = 0, most_connections: int = MOST_CONNECTIONS
) -> Iterator[tuple[str, RolloutServer]]:
    """The address of a server of the kit, and the server."""
    server = RolloutServer(("127.0.0.1", port), make_token(weights), most_connections)
    server.open(Service(backend, weights))
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@dataclass
class Canned:
    """What a server answers, exchange by exchange; the last answer is given from then on."""

    answers: list[tuple[int, bytes | None]]  # status and body; None: the connection is cut without an answer
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)  # method, path and body of each request
    pause_s: float = 0.0  # before the answer
    drip_s: float = 0.0  # between the bytes of the answer


@contextmanager
def canned_server(canned: Canned) -> Iterator[str]:
    """The address of an HTTP server that answers as written."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = canned.answers[min(len(canned.seen), len(canned.answers) - 1)]
            canned.seen.append((self.command, self.path, body))
            time.sleep(canned.pause_s)
            if answer is None:
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self._write(answer)

        def _write(self, answer: bytes) -> None:
            if not canned.drip_s:
                self.wfile.write(answer)
                return
            for n in range(len(answer)):
                self.wfile.write(answer[n : n + 1])
                time.sleep(canned.drip_s)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def largest_gap(adapter: BaseAdapter, groups: Sequence[RolloutGroup], temperature: float) -> float:
    """Between the log-probs of an engine and those of plain rows of the policy, over all tokens, in nats."""
    gaps = [0.0]
    for group in groups:
        for each in group.completions:
            with torch.no_grad():
                plain = plain_log_probs(adapter, group.prompt.encoded, each, temperature)
            gaps.append(float((plain - torch.tensor(each.log_probs)).abs().max()))
    return float(torch.tensor(gaps).max())  # NaN if one is


def perturb(adapter: BaseAdapter, seed: int = 0, scale: float = 0.5) -> None:
    """Other weights than before, in every tensor: also in those that are all equal, as a fresh adapter's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            spread = max(0.05, float(parameter.std().nan_to_num(0.0)))
            parameter.add_(scale * spread * torch.randn(parameter.shape, generator=generator))
