"""The far side of an `ssh` tier: a program that Python 3.8 runs without devloop, from its text.

It is sent over and serves one images folder on its standard input and output, so the other machine
needs devloop's state directory and `python3`, nothing else. Reads nothing but that folder.

    hello      MAGIC, once, after whatever the login shell has printed
    request    u32 size, JSON object, and `size` bytes that follow where it has "size"
    answer     u32 size, JSON object, and `size` bytes that follow where it has "size"

    {"op": "has", "digests": [hex]}                       -> {"has": [hex]}
    {"op": "get", "digest", "offset", "count"}            -> {"size": N} bytes | {"missing": true}
    {"op": "many", "digests": [hex], "count"}             -> an answer as of "get" for each
    {"op": "named", "name", "count"}                      -> {"size": N} bytes | {"missing": true}
    {"op": "list", "folder", "start"}                     -> {"names": [...]}
    {"op": "put", "digest", "size"} bytes                 -> {}; it has no name before "settle"
    {"op": "settle"}                                      -> {}; all that was put is durable
    {"op": "put_named", "name", "size"} bytes             -> {}
    anything that fails                                   -> {"error": text, "errno": number}

"count" is how many bytes there may be at most; a blob that ends before gives less.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Fields = dict[str, Any]

MAGIC = b"\0devloop tier 1\n"
VERSION = b"devloop blob store 2\n"
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


class Server:
    def __init__(self, root: str, source: BinaryIO, sink: BinaryIO) -> None:
        self.root = root
        self.source = source
        self.sink = sink
        self.put_count = 0
        self.body_left = 0
        self.unsettled: list[tuple[str, str]] = []

    def serve(self) -> None:
        self.sink.write(MAGIC)
        self.sink.flush()
        while True:
            head = self.source.read(4)
            if len(head) < 4:
                return
            request = json.loads(self.source.read(struct.unpack(">I", head)[0]))
            self.body_left = request.get("size", 0)
            try:
                getattr(self, "do_" + request["op"])(request)
            except OSError as error:
                for _ in self.body():
                    pass
                self.answer({"error": error.strerror or str(error), "errno": error.errno})
            self.sink.flush()

    def body(self) -> Iterator[bytes]:
        """What follows the request, in pieces. Raises EOFError where it is cut off."""
        while self.body_left:
            piece = self.source.read(min(self.body_left, 1 << 20))
            if not piece:
                raise EOFError
            self.body_left -= len(piece)
            yield piece

    def answer(self, fields: Fields, body: bytes = b"") -> None:
        if body or "size" in fields:
            fields["size"] = len(body)
        data = json.dumps(fields).encode()
        self.sink.write(struct.pack(">I", len(data)) + data)
        self.sink.write(body)

    def blob(self, digest: str) -> str:
        return os.path.join(self.root, "blobs", digest[:2], digest[2:])

    def do_has(self, request: Fields) -> None:
        self.answer({"has": [d for d in request["digests"] if os.path.exists(self.blob(d))]})

    def do_get(self, request: Fields) -> None:
        self.send(self.blob(request["digest"]), request["offset"], request["count"])

    def do_many(self, request: Fields) -> None:
        for digest in request["digests"]:
            self.send(self.blob(digest), 0, request["count"])

    def do_named(self, request: Fields) -> None:
        self.send(os.path.join(self.root, request["name"]), 0, request["count"])

    def send(self, path: str, offset: int, count: int) -> None:
        try:
            fd = os.open(path, READ)
        except (FileNotFoundError, NotADirectoryError):
            self.answer({"missing": True})
            return
        try:
            self.answer({"size": 0}, os.pread(fd, count, offset))
        finally:
            os.close(fd)

    def do_list(self, request: Fields) -> None:
        try:
            names = sorted(os.listdir(os.path.join(self.root, request["folder"])))
        except FileNotFoundError:
            names = []
        self.answer({"names": [n for n in names if n.startswith(request["start"])]})

    def do_put(self, request: Fields) -> None:
        self.prepare()
        digest = request["digest"]
        if not os.path.exists(self.blob(digest)):
            folder = os.path.dirname(self.blob(digest))
            os.makedirs(folder, mode=0o700, exist_ok=True)
            temp = self.temp(folder)
            self.write(temp, self.body())
            self.unsettled.append((temp, self.blob(digest)))
        for _ in self.body():
            pass
        self.answer({})

    def do_settle(self, request: Fields) -> None:
        self.settle()
        self.answer({})

    def do_put_named(self, request: Fields) -> None:
        self.prepare()
        self.settle()
        path = os.path.join(self.root, request["name"])
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temp = self.temp(os.path.dirname(path))
        self.write(temp, self.body())
        self.flush(temp)
        os.replace(temp, path)
        self.flush(os.path.dirname(path))
        self.answer({})

    def settle(self) -> None:
        batch, self.unsettled = self.unsettled, []
        for temp, _ in batch:
            self.flush(temp)
        for temp, path in batch:
            os.replace(temp, path)
        for folder in {os.path.dirname(path) for _, path in batch}:
            self.flush(folder)

    def prepare(self) -> None:
        version = os.path.join(self.root, "version")
        if os.path.exists(version):
            return
        os.makedirs(os.path.join(self.root, "blobs"), mode=0o700, exist_ok=True)
        temp = self.temp(self.root)
        self.write(temp, [VERSION])
        os.chmod(temp, 0o600)
        os.replace(temp, version)

    def temp(self, folder: str) -> str:
        self.put_count += 1
        return os.path.join(folder, f".tmp-{os.getpid()}-{self.put_count}")

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def flush(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self) -> None:
        for temp, _ in self.unsettled:
            try:
                os.unlink(temp)
            except FileNotFoundError:
                pass


def images_folder(state_dir: str) -> str:
    """As `devloop.cafs.dirs` finds it."""
    state_dir = state_dir or os.environ.get("DEVLOOP_STATE_DIR", "")
    if not state_dir:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        state_dir = os.path.join(base, "devloop")
    return os.path.join(state_dir, "images")


def main(state_dir: str) -> None:
    # The text of this program was read through a buffer that may hold the first request already.
    server = Server(images_folder(state_dir), sys.stdin.buffer, sys.stdout.buffer)
    try:
        server.serve()
    except EOFError:
        pass
    finally:
        server.discard()
