"""What a FUSE server says on its standard output.

First the line "ready", when the mount is there, or one "error" event, and the server ends. Then
JSON objects, a line each:

    {"event": "error", "message", "hint"}                 it cannot serve
    {"event": "fetched", "digest", "size_bytes", "tier"}  a blob that was missing is stored
    {"event": "failed", "digest", "file", "reason"}       a reader got EIO; `file` is a path in the
                                                          image that has the blob
    {"event": "tier", "tier", "reason", "digest"}         a tier did not answer, or gave something
                                                          else than the blob (digest, else null)
    {"event": "touched", "digest", "chunk", "chunks"}     opened for the first time; of large files
                                                          each piece when it is read first (256 KiB
                                                          each, from `chunk`; null for whole files)
    {"event": "ahead", "files", "of_files", "size_bytes", "of_bytes"}
                                                          gone through of what a profile names; told
                                                          several times a second, and at the end
    {"event": "dropped", "events": N}                     nobody has read, so N events are missing

The server never waits for who reads this.
"""

from __future__ import annotations

import contextlib
import json
import os
from threading import Lock

__all__ = ["READY", "Events"]

READY = b"ready\n"
_MOST_WAITING_BYTES = 1 << 20


class Events:
    """For many threads."""

    def __init__(self, fd: int) -> None:
        """`fd` is made non-blocking."""
        self._fd = fd
        self._lock = Lock()
        self._waiting = bytearray()
        self._dropped = 0
        os.set_blocking(fd, False)

    def ready(self) -> None:
        self._say(READY)

    def tell(self, event: str, **fields: object) -> None:
        self._say(json.dumps({"event": event, **fields}).encode() + b"\n")

    def _say(self, line: bytes) -> None:
        with self._lock:
            if len(self._waiting) + len(line) > _MOST_WAITING_BYTES:
                self._dropped += 1
            else:
                self._waiting += line
            self._flush()

    def flush(self) -> None:
        """Says what the reader had no room for before."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._dropped and len(self._waiting) < _MOST_WAITING_BYTES // 2:
            told = {"event": "dropped", "events": self._dropped}
            self._waiting += json.dumps(told).encode() + b"\n"
            self._dropped = 0
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                try:
                    written = os.write(self._fd, self._waiting)
                except BrokenPipeError:
                    written = len(self._waiting)  # nobody will ever read it
                del self._waiting[:written]
