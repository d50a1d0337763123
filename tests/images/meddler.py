"""A server in front of a registry that spoils some of its answers, and asks for tokens if told to.

    with meddle(registry) as meddler:
        meddler.rules.append(lambda ask: Spoiled(cut_at=1000) if ask.number == 1 else None)
        open_image(meddler.name("team/train:1"))

The registry behind it is a real one; what no rule says anything of is passed on as it is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.images.registry import Registry

__all__ = ["Ask", "Meddler", "Spoiled", "meddle"]


class Ask(NamedTuple):
    """A request. `number`: from 0, of those for the same path."""

    path: str
    headers: Mapping[str, str]
    number: int

    @property
    def is_manifest(self) -> bool:
        return "/manifests/" in self.path

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


class Spoiled(NamedTuple):
    """`status`: instead of asking the registry. `cut_at`: the connection ends after so many bytes
    of the body. `flip_at`: a byte of it is another one."""

    status: int = 0
    headers: Mapping[str, str] = {}
    cut_at: int | None = None
    flip_at: int | None = None


@dataclass
class Meddler:
    """`tokens`: how many requests a bearer token is good for; None: nobody is asked for one.
    `login`: what the token server wants ("user:password", in base64); empty: nothing."""

    registry_port: int
    port: int
    rules: list[Callable[[Ask], Spoiled | None]] = field(default_factory=list)
    asked: list[Ask] = field(default_factory=list)
    tokens: int | None = None
    login: str = ""
    issued: list[dict[str, list[str]]] = field(default_factory=list)
    sent_bytes: int = 0
    _left: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def name(self, image: str) -> str:
        return f"{self.host}/{image}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if handler.path.startswith("/token?"):
            self._issue(handler, headers)
            return
        with self._lock:
            number = sum(one.path == handler.path for one in self.asked)
            ask = Ask(handler.path, headers, number)
            self.asked.append(ask)
        if self.tokens is not None and not self._is_shown(headers):
            realm = f'Bearer realm="http://{self.host}/token",service="tests"'
            _answer(handler, 401, {"WWW-Authenticate": realm}, b"{}")
            return
        spoiled = next((s for rule in self.rules if (s := rule(ask)) is not None), Spoiled())
        if spoiled.status:
            _answer(handler, spoiled.status, spoiled.headers, b"{}")
        else:
            self._pass_on(handler, headers, spoiled)

    def _issue(self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str]) -> None:
        if self.login and headers.get("authorization") != f"Basic {self.login}":
            _answer(handler, 401, {}, b"{}")
            return
        with self._lock:
            self.issued.append(parse_qs(urlsplit(handler.path).query))
            token = f"token-{len(self.issued)}"
            self._left[token] = self.tokens or 0
        _answer(handler, 200, {}, json.dumps({"token": token}).encode())

    def _is_shown(self, headers: Mapping[str, str]) -> bool:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        with self._lock:
            self._left[token] = self._left.get(token, 0) - 1
            return self._left[token] >= 0

    def _pass_on(
        self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str], spoiled: Spoiled
    ) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self.registry_port, timeout=20)
        with contextlib.closing(behind):
            kept = ("accept", "range")
            behind.request(
                "GET", handler.path, headers={n: v for n, v in headers.items() if n in kept}
            )
            answer = behind.getresponse()
            body = bytearray(answer.read())
        if spoiled.flip_at is not None:
            body[spoiled.flip_at] ^= 1
        passed = ("Content-Type", "Content-Range", "Docker-Distribution-Api-Version")
        told = {n: v for n in passed if (v := answer.headers.get(n))}
        cut = len(body) if spoiled.cut_at is None else min(spoiled.cut_at, len(body))
        with self._lock:
            self.sent_bytes += cut
        _answer(handler, answer.status, told, bytes(body), cut)


def _answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    cut: int | None = None,
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:cut])
    if cut is not None and cut < len(body):
        handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def meddle(registry: Registry) -> Iterator[Meddler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                meddler.answer(self)
            except (OSError, http.client.HTTPException):  # who asked has left, or the registry has
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    meddler = Meddler(registry.port, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield meddler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
