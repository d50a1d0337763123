"""The handlers that pyfuse3 calls: a view's values and a blob's bytes, in FUSE's terms.

No exception but FUSEError leaves a handler: any other would end the mount. A file handle is the
number of its inode, so open files cost nothing here.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from devloop.cafs.errors import BlobMissing, DevloopError
from devloop.cafs.index import CHUNK_BYTES

from .flights import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from devloop.cafs.digest import Digest
    from devloop.cafs.tiers.landing import Landing

    from .descriptors import Descriptors
    from .events import Events
    from .misses import Misses
    from .views import Attributes, Content, View

__all__ = ["Operations"]

P = ParamSpec("P")
T = TypeVar("T")

_FOREVER_S = 10 * 365 * 86400.0  # nothing of an image ever changes
_LARGEST_READ = 1 << 20
_NO_ATTRIBUTE = errno.ENODATA


def _guarded(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Whatever goes wrong in a handler is an error of its caller's, and of nobody else's."""

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except trio.Cancelled:
            # The server ends. Unanswered, the caller would wait until the mount is gone.
            raise FUSEError(errno.EIO) from None
        except Exception as error:  # noqa: BLE001
            operations: Any = args[0]
            operations.report(handler.__name__, error)
            raise FUSEError(errno.EIO) from None

    return guarded


class Operations(pyfuse3.Operations):
    supports_dot_lookup = False

    def __init__(
        self,
        view: View,
        misses: Misses,
        landing: Landing,
        fds: Descriptors,
        events: Events,
        *,
        file_of: Callable[[Digest], str],
    ) -> None:
        super().__init__()
        self._view = view
        self._misses = misses
        self._landing = landing
        self._fds = fds
        self._events = events
        self._file_of = file_of
        self._touched: set[tuple[Digest, int]] = set()
        self._buffer = bytearray(_LARGEST_READ)
        self._read_flags = os.RWF_NOWAIT

    def report(self, where: str, error: Exception) -> None:
        self._events.tell("failed", digest=None, file=None, reason=f"{where}: {error!r}")

    # ------------------------------------------------------------------ what it looks like

    @_guarded
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> EntryAttributes:
        number = self._view.find(parent_inode, name)
        if number is not None:
            return _entry(number, self._view.attributes(number))
        absent = EntryAttributes()
        absent.st_ino = 0  # the kernel remembers that, too
        absent.entry_timeout = _FOREVER_S
        return absent

    @_guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return _entry(inode, self._view.attributes(inode))

    @_guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self._view.target(inode)

    @_guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        children = self._view.children(fh)
        for place in range(start_id, len(children)):
            name, number = children[place]
            entry = _entry(number, self._view.attributes(number))
            if not pyfuse3.readdir_reply(token, name, entry, place + 1):
                return

    @_guarded
    async def releasedir(self, fh: int) -> None:
        pass

    @_guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        for known, value in self._view.xattrs(inode):
            if known == name:
                return value
        raise FUSEError(_NO_ATTRIBUTE)

    @_guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return [name for name, _ in self._view.xattrs(inode)]

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        told = pyfuse3.StatvfsData()
        told.f_bsize = told.f_frsize = 4096
        told.f_namemax = 255
        return told

    # ------------------------------------------------------------------ bytes

    @_guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> FileInfo:
        """Small blobs are fetched now: a program gets EIO from `open`, and no SIGBUS later."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        content = self._view.content(inode)
        if content is not None:
            if content.chunks is None:
                self._touch(content, None)
            await self._descriptor(content)
        return FileInfo(fh=inode, keep_cache=True)

    @_guarded
    async def release(self, fh: int) -> None:
        pass

    @_guarded
    async def read(  # type: ignore[override] # pyfuse3 takes any buffer
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        content = self._view.content(fh)
        if content is None or off >= content.size_bytes:
            return b""
        size = min(size, content.size_bytes - off)
        if content.chunks is not None:
            self._touch_chunks(content, off, size)
        fd = await self._descriptor(content)
        large = self._misses.partial(content.digest)
        if large is not None:
            self._fds.pin(fd)
            try:
                await self._misses.need(large, off, size)
            except Exception as error:  # noqa: BLE001
                self._fail(content, error)
            finally:
                self._fds.unpin(fd)
            fd = await self._descriptor(content)
        return await self._bytes(content, fd, off, size)

    async def _bytes(self, content: Content, fd: int, off: int, size: int) -> bytes | memoryview:
        """What it returns is good until the caller waits for something: it is sent at once."""
        if size <= _LARGEST_READ and self._read_flags:
            view = memoryview(self._buffer)[:size]
            try:
                if os.preadv(fd, [view], off, self._read_flags) == size:
                    return view
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    self._fail(content, error)
                self._read_flags = 0
        return await self._bytes_from_disk(content, fd, off, size)

    async def _bytes_from_disk(self, content: Content, fd: int, off: int, size: int) -> bytes:
        self._fds.pin(fd)
        try:
            data = await trio.to_thread.run_sync(os.pread, fd, size, off, abandon_on_cancel=True)
        except OSError as error:
            self._fail(content, error)
        finally:
            self._fds.unpin(fd)
        if len(data) != size:
            self._fail(content, EOFError(f"the stored file ends before byte {off + size:,}"))
        return data

    async def _descriptor(self, content: Content) -> int:
        """Raises FUSEError."""
        fd = self._fds.get(content.digest)
        while fd is None:
            try:
                fd = self._open(content)
                if fd is None:
                    await self._misses.ensure(content)
            except Exception as error:  # noqa: BLE001
                self._fail(content, error)
        return fd

    def _open(self, content: Content) -> int | None:
        """None when it is not here. What has not the right size is damaged, and dropped."""
        digest = content.digest
        try:
            fd = self._fds.open(digest, functools.partial(self._misses.open, digest))
        except BlobMissing:
            return None
        if os.fstat(fd).st_size == content.size_bytes:
            return fd
        self._fds.forget(digest)
        self._landing.drop(digest)
        return None

    def _fail(self, content: Content, error: Exception) -> NoReturn:
        reason = str(error) if isinstance(error, (DevloopError, NoAnswer)) else repr(error)
        self._events.tell(
            "failed",
            digest=content.digest.hex(),
            file=self._file_of(content.digest),
            reason=reason,
        )
        raise FUSEError(errno.EIO)

    # ------------------------------------------------------------------ what was touched

    def _touch_chunks(self, content: Content, off: int, size: int) -> None:
        for chunk in range(off // CHUNK_BYTES, (off + size - 1) // CHUNK_BYTES + 1):
            self._touch(content, chunk)

    def _touch(self, content: Content, chunk: int | None) -> None:
        """Told once each: bounded by the size of the image."""
        key = (content.digest, -1 if chunk is None else chunk)
        if key not in self._touched:
            self._touched.add(key)
            chunks = None if chunk is None else 1
            self._events.tell("touched", digest=content.digest.hex(), chunk=chunk, chunks=chunks)


def _entry(number: int, values: Attributes) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = number
    entry.entry_timeout = entry.attr_timeout = _FOREVER_S
    entry.st_mode = values.mode
    entry.st_nlink = values.links
    entry.st_uid = values.uid
    entry.st_gid = values.gid
    entry.st_rdev = values.rdev
    entry.st_size = values.size_bytes
    entry.st_blocks = -(-values.size_bytes // 512)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = values.mtime_ns
    return entry
