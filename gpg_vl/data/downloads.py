"""Fetches an image URL of an allowed host. A row of data cannot reach anything else on the network.

A URL is parsed once, and the connection goes to the very address that was checked; no proxies or cookies are used.
Nothing is cached: an image is fetched again whenever it is opened.
"""

from __future__ import annotations

import contextlib
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urljoin, urlsplit

TIMEOUT_S = 20.0  # for one image: connection, redirects and body
MAX_REDIRECTS = 3

_PORTS = {"http": 80, "https": 443}
_UNICAST_IPV6 = ipaddress.ip_network("2000::/3")
_6TO4 = ipaddress.ip_network("2002::/16")


@dataclass(frozen=True, slots=True)
class _Target:
    """The parts of a parsed URL."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @property
    def name(self) -> str:
        """As in the allow-list and the Host header: with the port only if it is not the scheme's default."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"


def check_url(url: str, hosts: Collection[str]) -> None:
    """Raises ``ValueError`` unless ``url`` is an http or https URL of one of ``hosts``; makes no DNS query.

    Args:
        hosts: names such as ``images.example.org``, or with a port, ``images.example.org:8443``
    """
    _refuse_unknown_host(_parse(url), hosts)


def download(url: str, hosts: Collection[str], max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """The bytes at a URL of an allowed host. Redirects are only followed to the same host.

    Raises:
        ValueError: the host is not allowed or has an address that is not public; or the response is an error, is longer
            than ``max_bytes`` or takes longer than ``timeout_s``; one line that quotes nothing the server sent
    """
    target = _parse(url)
    deadline = time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        _refuse_unknown_host(target, hosts)
        found = _request(target, max_bytes, deadline)
        if time.monotonic() >= deadline:  # a connection cut at the deadline looks like the end of the body
            raise ValueError(f"it did not arrive within {timeout_s:g} s")
        if isinstance(found, bytes):
            return found
        target = _follow(target, found)
    raise ValueError(f"it redirects more than {MAX_REDIRECTS} times")


def _parse(url: str) -> _Target:
    if not url.isascii() or any(char <= " " or char in "\\\x7f" for char in url):
        raise ValueError("it is a URL with a space, a backslash or a character beyond ASCII; write it percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("it is not a valid URL") from error
    if parts.scheme not in _PORTS:
        raise ValueError(f"it is a URL with the scheme {parts.scheme[:20]!r}; only http and https are fetched")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError("it is a URL without a host, or with a user's name in it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port, path)


def _refuse_unknown_host(target: _Target, hosts: Collection[str]) -> None:
    if target.name not in {host.lower() for host in hosts}:
        raise ValueError(
            f"it is a URL of {target.name[:80]!r}, a host that data.image_hosts does not list; "
            "add the host there, or download the image and give its path"
        )


def _follow(target: _Target, location: str) -> _Target:
    try:
        redirected = _parse(urljoin(f"{target.scheme}://{target.name}{target.path}", location))
    except ValueError as error:
        raise ValueError("it redirects to something that is not a URL; write the final URL") from error
    if redirected.host != target.host:
        raise ValueError("it redirects to another host; write the final URL")
    return redirected


def _look_up(target: _Target, deadline: float) -> list[str]:
    """``_public_addresses`` in a thread: a system's resolver has no time limit that a caller can set.

    Raises:
        TimeoutError: no answer by the deadline
    """
    answers: queue.SimpleQueue[list[str] | ValueError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_public_addresses(target.host, target.port))
        except ValueError as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="name_lookup").start()
    try:
        answer = answers.get(timeout=max(0.001, deadline - time.monotonic()))
    except queue.Empty as error:
        raise TimeoutError from error
    if isinstance(answer, ValueError):
        raise answer
    return answer


def _public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, all of them public.

    Raises:
        ValueError: the host has no address, or one that belongs to this machine or a private network
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the host {host[:80]!r} cannot be resolved") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise ValueError(f"the host {host[:80]!r} has a private address; images are only fetched from public ones")
    return addresses


def _is_public(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address) and (number not in _UNICAST_IPV6 or number in _6TO4):
        return False  # including forms that embed an IPv4 address: ::ffff:127.0.0.1, 64:ff9b::7f00:1
    return number.is_global and not number.is_multicast


def _request(target: _Target, max_bytes: int, deadline: float) -> bytes | str:
    """The body, or the target of a redirect. After the deadline the result is undefined."""
    try:
        with _connect(target, deadline) as raw, _cut_at(raw, deadline):
            connection = HTTPConnection(target.host, target.port)
            connection.sock = raw
            if target.scheme == "https":
                connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=target.host)
            with contextlib.closing(connection):
                connection.request("GET", target.path, headers={"Host": target.name, "Accept": "image/*, video/*"})
                return _read_answer(connection.getresponse(), max_bytes)
    except (OSError, HTTPException) as error:
        if time.monotonic() >= deadline:
            return b""
        raise ValueError(f"the request to {target.name} failed ({type(error).__name__})") from error


def _connect(target: _Target, deadline: float) -> socket.socket:
    """Connects to an address that was checked; a second DNS query could give another one."""
    failure: OSError = TimeoutError()
    for address in _look_up(target, deadline):
        try:
            return socket.create_connection((address, target.port), max(0.001, deadline - time.monotonic()))
        except OSError as error:
            failure = error
    raise failure


@contextlib.contextmanager
def _cut_at(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Ends the connection at the deadline. A socket's own timeout is per read, so a slow server never exceeds it."""
    handle = sock.dup()  # stays valid after TLS has taken over the socket

    def cut() -> None:
        with contextlib.suppress(OSError):
            handle.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        handle.close()


def _read_answer(response: HTTPResponse, max_bytes: int) -> bytes | str:
    location = response.getheader("Location")
    if response.status in (301, 302, 303, 307, 308) and location:
        return location
    if response.status != 200:
        raise ValueError(f"the server answered with status {response.status}")
    if response.length is not None and response.length > max_bytes:
        raise ValueError(f"it has {response.length} bytes, more than {max_bytes}")
    body = response.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    if response.length:
        raise ValueError("the connection ended before the image did")
    return body
