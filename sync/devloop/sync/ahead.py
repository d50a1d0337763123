"""What a scan has to read goes to the box while the scan goes on.

Owns the way of small files from the thread of a scan to an upload: which of them share a frame, how
many bytes may wait, and that nothing is sent which the agent holds. It is a saving only: what it
leaves out, for whatever reason, the push finds missing and sends.
Refuses to know what is looked at, and which tree comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import encode_node

from .upload import ENTRY_BYTES, FRAME_BYTES, SMALL_BYTES, Packer, SmallBlob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager

    from devloop.cafs.digest import Digest
    from devloop.cafs.tree import File, Node

    from .client import AgentClient
    from .model import WorkspaceRef
    from .progress import Progress

__all__ = ["Ahead", "AheadFrame", "Files"]

SMALL_FILE_BYTES = 64 << 10  # a larger one is not taken as one of Files
WAITING_BYTES = 32 << 20  # what is read while so much waits is read again when it is sent


class Files(NamedTuple):
    """Small files of one folder, with their bytes one after another."""

    directory: bytes
    entries: bytes  # a tree node of these files only
    data: bytes
    zstd: bool


class AheadFrame(NamedTuple):
    files: list[Files]
    nodes: list[SmallBlob]

    @property
    def size_bytes(self) -> int:
        return sum(len(f.data) for f in self.files) + sum(len(node.data) for node in self.nodes)


class _Batch:
    """What one question is about, and one frame holds."""

    def __init__(self) -> None:
        self.folders: list[tuple[bytes, dict[bytes, File], list[bytes]]] = []
        self.nodes: list[Node] = []
        self.weight_bytes = 0

    def digests(self) -> list[Digest]:
        files = [entry.digest for _, entries, _ in self.folders for entry in entries.values()]
        return files + [node.digest for node in self.nodes]

    def frame(self, wanted: set[Digest], packer: Packer) -> AheadFrame:
        files = []
        for folder, entries, data in self.folders:
            chosen = [e.digest in wanted for e in entries.values()]
            if not all(chosen):
                data = [d for d, is_wanted in zip(data, chosen, strict=True) if is_wanted]
                entries = {n: e for n, e in entries.items() if e.digest in wanted}
            if entries:
                files.append(Files(folder, encode_node(entries), *packer.pack(b"".join(data))))
        nodes = [node for node in self.nodes if node.digest in wanted]
        blobs = [SmallBlob(node.digest, *packer.pack(node.encoded)) for node in nodes]
        return AheadFrame(files, blobs)


class Ahead:
    """One scan's. `file`, `node` and `end` are for its thread, everything else for the loop's."""

    def __init__(self) -> None:
        self.held: set[Digest] = set()  # what the agent is known to have, once `upload` is over
        self.blobs = 0
        self.size_bytes = 0
        self.seen = 0  # files so far
        self.left_out = 0  # files and nodes that the agent may lack, and that stay behind
        self.progress: Progress | None = None  # is told, once a push waits for the rest
        self._taken_files = 0
        self._taken_bytes = 0
        self._done_files = 0
        self._done_bytes = 0
        self._batch = _Batch()
        self._loop = asyncio.get_running_loop()
        self._batches: asyncio.Queue[_Batch | None] = asyncio.Queue()
        self._answers: list[asyncio.Task[list[Digest]]] = []
        self._asked: asyncio.Queue[tuple[_Batch, asyncio.Task[list[Digest]]] | None] = (
            asyncio.Queue()
        )

    # -- the scan

    def file(self, folder: bytes, name: bytes, entry: File, data: bytes | None) -> None:
        """One that was read; a large one comes without its bytes. Files of a folder come one after
        another."""
        self.seen += 1
        waiting_bytes = self._taken_bytes - self._done_bytes
        if data is None or len(data) > SMALL_FILE_BYTES or waiting_bytes > WAITING_BYTES:
            self.left_out += 1
            return
        batch = self._room_for(len(data))
        if not batch.folders or batch.folders[-1][0] != folder:
            batch.folders.append((folder, {}, []))
        _, entries, contents = batch.folders[-1]
        entries[name] = entry
        contents.append(data)
        self._taken_files += 1

    def node(self, node: Node) -> None:
        if len(node.encoded) > SMALL_BYTES:
            self.left_out += 1
        else:
            self._room_for(len(node.encoded)).nodes.append(node)

    def end(self) -> None:
        if self._batch.weight_bytes:
            self._pass_on(self._batch)
        self._pass_on(None)

    def _room_for(self, size_bytes: int) -> _Batch:
        weight_bytes = size_bytes + ENTRY_BYTES
        if self._batch.weight_bytes + weight_bytes > FRAME_BYTES and self._batch.weight_bytes:
            self._pass_on(self._batch)
            self._batch = _Batch()
        self._batch.weight_bytes += weight_bytes
        self._taken_bytes += weight_bytes
        return self._batch

    def _pass_on(self, batch: _Batch | None) -> None:
        with contextlib.suppress(RuntimeError):  # nobody waits for this scan any more
            self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)

    # -- the upload

    def tell(self, progress: Progress) -> AbstractContextManager[None]:
        """How far it is, from now on."""
        self.progress = progress
        return progress.uploading(
            *(self._taken_files, self._taken_bytes), sent=(self._done_files, self._done_bytes)
        )

    async def upload(self, client: AgentClient, workspace: WorkspaceRef, *, compress: bool) -> None:
        """Until `end`, and the agent has it all. What goes wrong is for the push to find out."""
        asking = asyncio.create_task(self._ask(client))
        sent: set[Digest] = set()
        frames = self._frames(Packer(compress=compress), sent)
        try:
            first = await anext(frames, None)
            if first is not None:
                await client.put_ahead(workspace, _chain(first, frames))
            self.held |= sent
        except DevloopError:
            pass
        finally:
            tasks = [asking, *self._answers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: AgentClient) -> None:
        """All questions are under way at once: a far agent costs one round trip, not one each."""
        while (batch := await self._batches.get()) is not None:
            answer = asyncio.create_task(client.missing(batch.digests()))
            self._answers.append(answer)
            self._asked.put_nowait((batch, answer))
        self._asked.put_nowait(None)

    async def _frames(self, packer: Packer, sent: set[Digest]) -> AsyncIterator[AheadFrame]:
        while (asked := await self._asked.get()) is not None:
            batch, answer = asked
            missing = set(await answer)
            self._answers.remove(answer)
            self.held.update(batch.digests())
            self.held -= missing
            if wanted := missing - sent:
                yield await self._frame(batch, wanted, packer)
                sent |= wanted
            self._done_bytes += batch.weight_bytes
            self._done_files += sum(len(entries) for _, entries, _ in batch.folders)
            if self.progress is not None:
                self.progress.sent(self._done_files, self._done_bytes)

    async def _frame(self, batch: _Batch, wanted: set[Digest], packer: Packer) -> AheadFrame:
        if packer.compresses:
            frame = await asyncio.to_thread(batch.frame, wanted, packer)
        else:
            frame = batch.frame(wanted, packer)
        self.blobs += len(wanted)
        self.size_bytes += frame.size_bytes
        return frame


async def _chain(first: AheadFrame, rest: AsyncIterator[AheadFrame]) -> AsyncIterator[AheadFrame]:
    yield first
    async for frame in rest:
        yield frame
