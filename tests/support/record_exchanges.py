"""Records exchanges with a real vLLM server for the tests that repeat them: python -m tests.support.record_exchanges.

It needs the environment of ``make setup-vllm``. Between the run and the server stands a server that writes down what
passes. The token is not recorded.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from gpg_vl.models.tiny import write_tiny_model
from gpg_vl.rollout.served.client import Client
from gpg_vl.rollout.served.engine_weights import WEIGHTS_FILE
from gpg_vl.rollout.served.messages import PROTOCOL, Picture, Request, read_request, write_request
from gpg_vl.rollout.served.shared_folder import read_token
from tests.support.recorded_exchanges import AGAIN, FILE, RUN, STALE, Exchange, make_policy, play_run
from tests.support.vllm_servers import CONTEXT, Server, running

_SECONDS = 900.0
WRONG = "-wrong"  # behind the token


@dataclass
class Recorder:
    """Hands requests on to a server and writes down both sides."""

    url: str = ""
    what: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    def exchange(self, method: str, path: str, body: bytes, token: str) -> tuple[int | None, bytes]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=_SECONDS)
        status, answer = None, b""
        with suppress(OSError, http.client.HTTPException):
            connection.request(method, path, body or None, {"Authorization": token})
            response = connection.getresponse()
            answer = response.read()
            status = response.status
        connection.close()
        has_token = not token.endswith(WRONG)
        kept = (body.decode("utf-8"), status, "" if status is None else answer.decode("utf-8"))
        self.exchanges.append(Exchange(self.what, method, path, has_token, *kept))
        return status, answer

    @contextmanager
    def between(self) -> Iterator[str]:
        """The address of a server that hands on what it is asked."""
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = recorder.exchange(self.command, self.path, body, self.headers["Authorization"])
                if status is None:
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def last_good(recorder: Recorder) -> Request:
    return read_request(
        [each for each in recorder.exchanges if each.path == "/generate" and each.status == 200][-1].request.encode()
    )


def record_run(recorder: Recorder, model: Path, weights: Path) -> None:
    recorder.what = RUN
    with recorder.between() as url:
        for _ in play_run(make_policy(model), url, weights):
            pass


def record_stale(recorder: Recorder, weights: Path) -> None:
    """A request that names the weights of the draw before, as of a server that was restarted."""
    recorder.what = STALE
    last = last_good(recorder).version
    [other] = {folder.name for folder in weights.glob(f"{last.partition('-')[0]}-*")} - {last}
    with recorder.between() as url:
        client = Client(url, read_token(weights), _SECONDS, 10**6)
        client.generate(replace(last_good(recorder), version=other))


def record_refusals(recorder: Recorder, weights: Path) -> None:
    """Of requests that no run of the kit sends."""
    token = f"Bearer {read_token(weights)}"
    for what, path, body in refusals(last_good(recorder)):
        recorder.what = what
        recorder.exchange("POST", path, body, token)
    recorder.what = AGAIN
    recorder.exchange("POST", "/generate", write_request(last_good(recorder)), token)
    recorder.what = "another token"
    recorder.exchange("POST", "/generate", write_request(last_good(recorder)), f"{token}{WRONG}")


def refusals(good: Request) -> Iterator[tuple[str, str, bytes]]:
    shown, text, _ = good.prompts
    body = write_request(good)
    unknown = "f" * 16 + "-00000009"
    yield "no such action", "/tokens", b"{}"
    yield "no JSON", "/generate", body[:-1]
    yield "another protocol", "/generate", body.replace(b'"protocol": 1', b'"protocol": 2')
    yield "weights that nobody published", "/weights", _named(unknown)
    yield "weights that it has not", "/generate", write_request(replace(good, version=unknown))
    for what, prompt in (
        ("a prompt that is too long", replace(text, token_ids=text.token_ids[:1] * CONTEXT)),
        ("an image of another size", replace(shown, pictures=(Picture(56, 56, bytes(3 * 56 * 56)),))),
        ("a token that the model has not", replace(shown, token_ids=(*shown.token_ids, 10**6))),
    ):
        yield what, "/generate", write_request(replace(good, prompts=(prompt,)))


def _named(version: str) -> bytes:
    return json.dumps({"protocol": PROTOCOL, "version": version}).encode()


def record_damage(recorder: Recorder, server: Server, weights: Path) -> None:
    """A file of weights that was cut. The server ends."""
    recorder.what = "damaged weights"
    version = "e" * 16 + "-00000001"
    whole = next(weights.glob(f"*-*/{WEIGHTS_FILE}")).read_bytes()
    (weights / version).mkdir()
    (weights / version / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    recorder.exchange("POST", "/weights", _named(version), f"Bearer {read_token(weights)}")
    assert server.process.wait(120) == 1


def write(exchanges: Sequence[Exchange], weights: Path) -> None:
    """Without the path of the machine's own folder."""
    plain = [asdict(replace(each, answer=each.answer.replace(str(weights), "WEIGHTS"))) for each in exchanges]
    FILE.write_text(json.dumps({"exchanges": plain}, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        model = write_tiny_model(Path(place) / "tiny", family="qwen2_vl", seed=1)
        weights = Path(place) / "weights"
        recorder = Recorder()
        with running(model, weights) as server:
            recorder.url = server.url
            record_run(recorder, model, weights)
            record_stale(recorder, weights)
            record_refusals(recorder, weights)
            record_damage(recorder, server, weights)
    write(recorder.exchanges, weights)
    print("\n".join(f"{each.what}: {each.path} {each.status} {each.answer[:200]}" for each in recorder.exchanges))
    return 0


if __name__ == "__main__":
    sys.exit(main())
