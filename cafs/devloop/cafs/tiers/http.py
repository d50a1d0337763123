"""A tier that is a static HTTP server over a folder of the same layout: http(s)://HOST/PATH.

Nothing is put there: copy the folder that a `file:///` tier has made. A name and password in the
address are sent as basic authentication. urllib3 is imported by the first request.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from devloop.cafs.errors import BlobMissing

from .tier import (
    MAX_NAMED_BYTES,
    TierReadOnly,
    TierUnreachable,
    check_name,
    check_prefix,
    profile_list_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from urllib3 import BaseHTTPResponse, PoolManager

    from devloop.cafs.digest import Digest

    from .tier import Wanted

__all__ = ["HttpTier"]

_PIECE_BYTES = 1 << 18
_CONNECTIONS = 24
_AT_ONCE = 8  # requests of one call
_TRIES = 3
_BUSY = frozenset({429, 500, 502, 503, 504})
_SKIP_AT_MOST = 8 << 20  # to throw away from a server that knows no ranges


class _Broken(Exception):
    """This answer did not come to its end; another try may."""


class HttpTier:
    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._base = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._timeout_s = timeout_s
        self._pool: PoolManager | None = None
        self._lock = Lock()

    def describe(self) -> str:
        return self._base

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.clear()

    # ------------------------------------------------------------------ reading

    def has(self, digests: Sequence[Digest]) -> set[Digest]:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = threads.map(self._has, digests)
            return {digest for digest, is_there in zip(digests, found, strict=True) if is_there}

    def _has(self, digest: Digest) -> bool:
        with self._opened("HEAD", _blob(digest), {}) as answer:
            return answer is not None

    def fetch(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        """Goes on where a connection was lost, as long as each try brings something."""
        done_bytes, tries = 0, 0
        while done_bytes < size_bytes:
            before = done_bytes
            try:
                for piece in self._pieces(digest, done_bytes, size_bytes - done_bytes):
                    done_bytes += len(piece)
                    yield piece
                return
            except _Broken as error:
                tries = 1 if done_bytes > before else tries + 1
                if tries >= _TRIES:
                    raise TierUnreachable(self._base, str(error)) from None

    def fetch_range(self, digest: Digest, offset: int, size_bytes: int) -> bytes:
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                return b"".join(self._pieces(digest, offset, size_bytes))
            except _Broken as error:
                if last:
                    raise TierUnreachable(self._base, str(error)) from None
        raise AssertionError("the last try returns or raises")

    def fetch_many(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Digest, bytes]]:
        """As they come: one that is late keeps none waiting."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            asked = {threads.submit(self._whole, one): one[0] for one in wanted}
            try:
                for answer in as_completed(asked):
                    data = answer.result()
                    if data is not None:
                        yield asked[answer], data
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _whole(self, wanted: Wanted) -> bytes | None:
        try:
            return b"".join(self.fetch(*wanted))
        except BlobMissing:
            return None

    def get_named(self, name: str) -> bytes | None:
        with self._opened("GET", check_name(name), {}) as answer:
            if answer is None:
                return None
            try:
                return b"".join(self._body(answer, 0, MAX_NAMED_BYTES))
            except _Broken as error:
                raise TierUnreachable(self._base, str(error)) from None

    def list_named(self, prefix: str) -> list[str]:
        """Profiles only, from the list beside them: there is no way to ask for a folder."""
        check_prefix(prefix)
        list_name = profile_list_name(prefix)
        listed = self.get_named(list_name) if list_name is not None else None
        names = (listed or b"").decode(errors="replace").splitlines()
        return [name for name in names if name.startswith(prefix)]

    # ------------------------------------------------------------------ requests

    def _pieces(self, digest: Digest, offset: int, size_bytes: int) -> Iterator[bytes]:
        """Raises BlobMissing, TierUnreachable, _Broken."""
        headers = {"Range": f"bytes={offset}-{offset + size_bytes - 1}"}
        with self._opened("GET", _blob(digest), headers if size_bytes else {}) as answer:
            if answer is None:
                raise BlobMissing(digest)
            yield from self._body(answer, 0 if answer.status == 206 else offset, size_bytes)

    def _body(self, answer: BaseHTTPResponse, skip_bytes: int, size_bytes: int) -> Iterator[bytes]:
        """`size_bytes` after `skip_bytes`; less where the body ends before, as it said."""
        from urllib3.exceptions import HTTPError

        if skip_bytes > _SKIP_AT_MOST:
            raise TierUnreachable(self._base, "the server does not know ranges")
        left_bytes = size_bytes
        try:
            while left_bytes and (piece := answer.read(min(_PIECE_BYTES, skip_bytes + left_bytes))):
                skipped = min(skip_bytes, len(piece))
                skip_bytes -= skipped
                piece = piece[skipped:]
                left_bytes -= len(piece)
                yield piece
        except (HTTPError, OSError) as error:
            raise _Broken(_reason(error)) from error

    @contextlib.contextmanager
    def _opened(
        self, method: str, path: str, headers: dict[str, str]
    ) -> Iterator[BaseHTTPResponse | None]:
        """The answer's body is not read yet; None when there is no such file."""
        answer = self._ask(method, path, headers)
        try:
            if answer.status in (404, 410, 416):
                answer.drain_conn()
                yield None
            elif answer.status in (200, 206):
                yield answer
            else:
                raise TierUnreachable(self._base, f"answers {answer.status} {answer.reason}")
        finally:
            # What was read to its end keeps its connection; anything else costs it.
            if answer.length_remaining:
                answer.close()
            answer.release_conn()

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> BaseHTTPResponse:
        from urllib3.exceptions import HTTPError

        try:
            return self._opened_pool().request(
                method,
                f"{self._base}/{quote(path)}",
                headers=self._headers(headers),
                preload_content=False,
            )
        except HTTPError as error:
            raise TierUnreachable(self._base, _reason(error)) from error

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        from urllib3 import make_headers

        own = dict(make_headers(basic_auth=self._user)) if self._user != ":" else {}
        return {"Accept-Encoding": "identity", **own, **headers}

    def _opened_pool(self) -> PoolManager:
        with self._lock:
            if self._pool is None:
                import urllib3

                self._pool = urllib3.PoolManager(
                    maxsize=_CONNECTIONS,
                    timeout=urllib3.Timeout(connect=self._timeout_s / 2, read=self._timeout_s),
                    retries=urllib3.Retry(
                        connect=1,
                        read=1,
                        redirect=3,
                        status=2,
                        other=0,
                        status_forcelist=_BUSY,
                        backoff_factor=0.1,
                        backoff_max=1.0,
                        respect_retry_after_header=False,
                        raise_on_status=False,
                    ),
                )
            return self._pool

    # ------------------------------------------------------------------ putting

    def put_blob(self, digest: Digest, size_bytes: int, path: Path) -> None:
        raise self._read_only()

    def put_named(self, name: str, data: bytes) -> None:
        raise self._read_only()

    def _read_only(self) -> TierReadOnly:
        return TierReadOnly(
            f"images cannot be pushed to {self._base}",
            hint="push to file:///FOLDER or ssh://HOST, and serve that folder's files",
        )


def _blob(digest: Digest) -> str:
    text = digest.hex()
    return f"blobs/{text[:2]}/{text[2:]}"


def _reason(error: Exception) -> str:
    """Without addresses, in which secrets may be."""
    cause = getattr(error, "reason", None) or error
    while isinstance(cause, Exception) and isinstance(cause.__cause__, OSError):
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__ if isinstance(cause, Exception) else str(cause)
