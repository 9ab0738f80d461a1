"""Shows a report on this machine while a run goes on: the page is made anew whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpg_vl.errors import first_line

HOST = "127.0.0.1"
REFRESH_SECONDS = 30


def make_server(render: Callable[[], str], port: int) -> ThreadingHTTPServer:
    """A server on loopback alone, for ``GET /``.

    Raises:
        ValueError: the port is taken
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/" or self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self.send_error(404)
                return
            try:
                status, kind, text = 200, "text/html", render()
            except ValueError as error:  # a file that is being written
                status, kind, text = 503, "text/plain", first_line(error)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Refresh", str(REFRESH_SECONDS))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is above 65535"
        raise ValueError(f"--port {port} cannot be used ({reason}); give another") from error
