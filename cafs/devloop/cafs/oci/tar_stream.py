"""A stream of pieces, of which a tar reader takes headers and content. Knows nothing of tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tar_fields import BLOCK_BYTES, TarTruncated

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TarStream"]


class TarStream:
    """Raises TarTruncated where the pieces end too early."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._position = 0
        self._content_left = 0
        self._padding = 0

    def take_or_end(self, size_bytes: int) -> bytes:
        """That many bytes, or none when the stream is at its end."""
        end = self._position + size_bytes
        if end <= len(self._piece):
            data = self._piece[self._position : end]
            self._position = end
            return data
        data = b"".join(self._next_views(size_bytes))
        if data and len(data) != size_bytes:
            raise TarTruncated("ends inside a header")
        return data

    def take(self, size_bytes: int) -> bytes:
        data = self.take_or_end(size_bytes)
        if len(data) != size_bytes:
            raise TarTruncated("ends inside a header")
        return data

    # ------------------------------------------------------------------ content

    def begin_content(self, size_bytes: int) -> None:
        """What follows is that many bytes of a file, and then zeros up to a whole block."""
        self._content_left = size_bytes
        self._padding = -size_bytes % BLOCK_BYTES

    def take_content(self, size_bytes: int) -> bytes | memoryview:
        """That many bytes of the content; a view of the piece where they lie in one."""
        if size_bytes > self._content_left:
            raise TarTruncated("has a file whose map wants more than its content")
        self._content_left -= size_bytes
        end = self._position + size_bytes
        if end <= len(self._piece):
            view = memoryview(self._piece)[self._position : end]
            self._position = end
            return view
        data = b"".join(self._next_views(size_bytes))
        if len(data) != size_bytes:
            raise TarTruncated("ends inside a file")
        return data

    def content_views(self, size_bytes: int) -> Iterator[memoryview]:
        """The next bytes of the content, piece by piece; all of them must be taken."""
        if size_bytes > self._content_left:
            raise TarTruncated("has a file whose map wants more than its content")
        self._content_left -= size_bytes
        left = size_bytes
        for view in self._next_views(size_bytes):
            left -= len(view)
            yield view
        if left:
            raise TarTruncated("ends inside a file")

    @property
    def content_left(self) -> int:
        return self._content_left

    def skip_content(self) -> None:
        """Whatever nobody took. The very last padding may be missing, as some writers leave it."""
        left, padding = self._content_left, self._padding
        self._content_left = self._padding = 0
        end = self._position + left + padding
        if end <= len(self._piece):
            self._position = end
            return
        skipped = sum(map(len, self._next_views(left + padding)))
        if skipped < left:
            raise TarTruncated("ends inside a file")

    def drain(self) -> None:
        """To the end of the stream, whatever comes."""
        self._piece, self._position = b"", 0
        for _ in self._pieces:
            pass

    def _next_views(self, size_bytes: int) -> Iterator[memoryview]:
        """Up to that many bytes; fewer at the end of the stream only."""
        while size_bytes:
            if self._position == len(self._piece):
                self._piece, self._position = next(self._pieces, b""), 0
                if not self._piece:
                    return
            view = memoryview(self._piece)[self._position : self._position + size_bytes]
            self._position += len(view)
            size_bytes -= len(view)
            yield view
