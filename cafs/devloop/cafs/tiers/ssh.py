"""A tier that is another agent's images, reached by the system's `ssh`: ssh://HOST[/STATE FOLDER].

HOST is [USER@]NAME[:PORT], or a name from ~/.ssh/config. Whoever reads shares one connection, and
whoever puts another: more of them would each cost both sides a key exchange, and no link is faster
by that. `ssh_server` is the far side; its text goes along, so nothing has to be installed there.
Nobody is asked for a password.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from devloop.cafs.digest import digest_of_file
from devloop.cafs.errors import BlobMismatch, BlobMissing
from devloop.cafs.ids import OUTSIDE
from devloop.cafs.ssh_ciphers import fast_first

from .ssh_connection import Connection, Lost, Pipeline
from .tier import (
    MAX_NAMED_BYTES,
    TierUnreachable,
    check_name,
    check_prefix,
    profile_list_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from devloop.cafs.digest import Digest

    from .ssh_connection import Answer
    from .tier import Wanted

__all__ = ["SshTier"]

_PIECE_BYTES = 1 << 20
_AT_ONCE_BYTES = 4 << 20  # of a large blob: others have their turn in between
_MANY_BYTES = 4 << 20  # in one request for small blobs
_MANY = 512
_SETTLE_BYTES = 64 << 20

_OPTIONS = (
    "BatchMode=yes",
    "ClearAllForwardings=yes",
    "RequestTTY=no",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=2",
)


class SshTier:
    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        # Not `hostname`, which is in lower case: it may be a name from the configuration.
        self._host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}").strip("[]")
        self._port = parts.port
        self._user = unquote(parts.username or "")
        self._folder = unquote(parts.path) if parts.path != "/" else ""
        self._timeout_s = timeout_s
        self._name = url.rstrip("/")
        self._read_lock = Lock()
        self._pipeline: Pipeline | None = None
        self._put_lock = Lock()
        self._putting: Connection | None = None  # what it was told last is not settled yet
        self._unsettled_bytes = 0
        self._is_closed = False

    def describe(self) -> str:
        return self._name

    def close(self) -> None:
        with self._read_lock:
            self._is_closed = True
            if self._pipeline is not None:
                self._pipeline.close()
        with self._put_lock:
            if self._putting is not None:
                self._putting.close()
            self._putting = None

    # ------------------------------------------------------------------ reading

    def has(self, digests: Sequence[Digest]) -> set[Digest]:
        found: set[str] = set()
        for start in range(0, max(len(digests), 1), 10_000):  # of none, too: it connects
            batch = [digest.hex() for digest in digests[start : start + 10_000]]
            ((fields, _),) = self._call([{"op": "has", "digests": batch}])
            found.update(fields["has"])
        return {digest for digest in digests if digest.hex() in found}

    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        for start in range(0, max(size_bytes, 1), _AT_ONCE_BYTES):
            yield from self._pieces(digest, start, min(_AT_ONCE_BYTES, size_bytes - start))

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        return b"".join(self._pieces(digest, offset, size_bytes))

    def _pieces(self, digest: Digest, offset: int, size_bytes: int) -> list[bytes]:
        end = offset + size_bytes
        starts = range(offset, max(end, offset + 1), _PIECE_BYTES)
        get = {"op": "get", "digest": digest.hex()}
        asked = [get | {"offset": at, "count": min(_PIECE_BYTES, end - at)} for at in starts]
        answers = self._call(asked)
        if any("missing" in fields for fields, _ in answers):
            raise BlobMissing(digest)
        return [piece for _, piece in answers]

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        for batch in _batches(wanted):
            count = max(size_bytes for _, size_bytes in batch)
            digests = [digest.hex() for digest, _ in batch]
            many = {"op": "many", "digests": digests, "count": count}
            answers = self._call([many], answers=len(batch))
            for (digest, _), (fields, data) in zip(batch, answers, strict=True):
                if "missing" not in fields:
                    yield digest, data

    def get_named(self, name: str) -> bytes | None:
        named = {"op": "named", "name": check_name(name), "count": MAX_NAMED_BYTES}
        ((fields, data),) = self._call([named], most_bytes=MAX_NAMED_BYTES)
        return None if "missing" in fields else data

    def list_named(self, prefix: str) -> list[str]:
        folder, start = check_prefix(prefix)
        ((fields, _),) = self._call([{"op": "list", "folder": folder, "start": start}])
        return [f"{folder}/{name}" for name in fields["names"]]

    def _call(
        self, requests: Sequence[dict[str, Any]], *, answers: int = 0, most_bytes: int = 0
    ) -> list[Answer]:
        """Raises TierUnreachable."""
        try:
            return self._reader().call(requests, answers=answers, most_bytes=most_bytes)
        except Lost as error:
            raise TierUnreachable(self._name, str(error)) from None

    def _reader(self) -> Pipeline:
        with self._read_lock:
            if self._pipeline is None or self._pipeline.is_lost:
                if self._is_closed:
                    raise TierUnreachable(self._name, "it is not used any more")
                self._pipeline = Pipeline(self._connect())
            return self._pipeline

    # ------------------------------------------------------------------ putting

    def put_blob(self, digest: Digest, size_bytes: int, path: Path) -> None:
        """Read and hashed here: the far side has no BLAKE3. Small enough blobs travel at once, and
        what is larger is read twice."""
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise BlobMissing(digest) from None
        with file:
            actual, actual_bytes = digest_of_file(file)
            if (actual, actual_bytes) != (digest, size_bytes):
                raise BlobMismatch(digest, f"at {path} are others")
            file.seek(0)
            with self._putter() as connection:
                fields = {"op": "put", "digest": digest.hex(), "size": size_bytes}
                connection.ask(fields, iter(lambda: file.read(_PIECE_BYTES), b""))
                connection.answer()
                self._unsettled_bytes += size_bytes
                if self._unsettled_bytes > _SETTLE_BYTES:
                    self._settle(connection)

    def put_named(self, name: str, data: bytes) -> None:
        with self._putter() as connection:
            self._settle(connection)
            self._put_named(connection, check_name(name), data)
            list_name = profile_list_name(name)
            if list_name is not None:
                start = list_name.removesuffix(".list").partition("/")[2] + "-"
                connection.ask({"op": "list", "folder": "profiles", "start": start})
                names = connection.answer()[0]["names"]
                listed = "".join(f"profiles/{each}\n" for each in names)
                self._put_named(connection, list_name, listed.encode())

    def _put_named(self, connection: Connection, name: str, data: bytes) -> None:
        connection.ask({"op": "put_named", "name": name, "size": len(data)}, [data])
        connection.answer()

    def _settle(self, connection: Connection) -> None:
        connection.ask({"op": "settle"})
        connection.answer(wait_s=max(self._timeout_s, 60.0))
        self._unsettled_bytes = 0

    @contextlib.contextmanager
    def _putter(self) -> Iterator[Connection]:
        """One for all that is put: it settles what it has taken."""
        with self._put_lock:
            if self._putting is None:
                self._putting = self._connect()
            try:
                with self._explained(self._putting):
                    yield self._putting
            except TierUnreachable:
                self._putting = None
                raise

    # ------------------------------------------------------------------ connections

    @contextlib.contextmanager
    def _explained(self, connection: Connection) -> Iterator[None]:
        """A connection of which an answer may not have been read to its end is closed."""
        try:
            yield
        except Lost as error:
            connection.close()
            raise TierUnreachable(self._name, str(error)) from None
        except BaseException:
            connection.close()
            raise

    def _connect(self) -> Connection:
        try:
            return Connection(self._argv, self._folder, self._timeout_s)
        except (Lost, OSError) as error:
            raise TierUnreachable(self._name, str(error)) from None

    @cached_property
    def _argv(self) -> list[str]:
        """Raises OSError where there is no `ssh`."""
        host = ["--", self._host]
        if self._port is not None:
            host = ["-p", str(self._port), *host]
        if self._user:
            host = ["-l", self._user, *host]
        options = [*_OPTIONS, f"ConnectTimeout={max(1, round(self._timeout_s))}"]
        if ciphers := fast_first(_ciphers(host)):
            options.append(f"Ciphers={ciphers}")
        words = (word for option in options for word in ("-o", option))
        return [*_as_its_user(), "ssh", "-T", "-x", *words, *host]


def _as_its_user() -> list[str]:
    """`ssh` goes by who it is, not by HOME: root of a user namespace would be the machine's root to
    it. In one more below, it is who it is outside."""
    uid, _, gid = os.environ.get(OUTSIDE, "").partition(":")
    return ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}"] if gid else []


def _ciphers(host: list[str]) -> str:
    """What the configuration allows; empty when it cannot be used, which `ssh` itself will say."""
    argv = [*_as_its_user(), "ssh", "-T", "-G", *host]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = (line.partition(" ")[2] for line in done.stdout.splitlines() if line[:8] == "ciphers ")
    return next(found, "")


def _batches(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Each fits into one request, and into memory."""
    batch: list[Wanted] = []
    size_bytes = 0
    for each in wanted:
        if batch and (size_bytes + each[1] > _MANY_BYTES or len(batch) == _MANY):
            yield batch
            batch, size_bytes = [], 0
        batch.append(each)
        size_bytes += each[1]
    if batch:
        yield batch
