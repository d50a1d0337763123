"""Servers of tiers: a static one of HTTP, with ranges or without, and one that never answers."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["serve_nothing", "serve_static"]

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def serve_static(folder: Path, *, ranges: bool = True) -> Iterator[str]:
    """Yields its address. As nginx does it: GET and HEAD of files, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # who asked has left
                self._answer(with_body=True)

        def do_HEAD(self) -> None:
            with contextlib.suppress(OSError):
                self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            wanted = _RANGE.fullmatch(self.headers.get("Range", "")) if ranges else None
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serve_nothing() -> Iterator[str]:
    """Connections are accepted by the kernel, and nobody ever says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
