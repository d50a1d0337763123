"""Bringing a tree to the box: find out what the agent lacks, upload it, apply.

Owns the knowledge of what the agent holds, which makes the usual save one call: the blobs of a
small change travel inside the transition. Being wrong about it costs a round trip, never bytes:
the agent names what it lacks.
"""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import File, Node, diff_trees, walk_tree

from .hashing import open_regular
from .model import OnBusy
from .progress import Progress
from .upload import (
    Data,
    Outgoing,
    SmallBlob,
    SmallBlobs,
    Upload,
    make_recipe,
    questions,
    worth_chunking,
    worth_offering,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from .ahead import Ahead
    from .client import AgentClient
    from .model import Applied, RunSpec, WorkspaceRef
    from .upload import Frame, Recipe, SourceChanged

__all__ = ["NotConverging", "Pushed", "Pusher", "SourcesChanged"]

INLINE_BYTES = 512 << 10
INLINE_BLOBS = 256
MAX_SENDS = 3  # of one blob that the agent goes on to lack


class SourcesChanged(DevloopError):
    """Files changed between their scan and their upload: scan again. Nothing changed on the box."""

    def __init__(self, changed: list[SourceChanged]) -> None:
        first = os.fsdecode(changed[0].path)
        super().__init__(f"{first} changed while it was uploaded")
        self.dirs = frozenset(change.path.rpartition(b"/")[0] for change in changed)


class NotConverging(DevloopError):
    """The agent goes on to lack blobs that it was sent."""

    hint = "its disk may be failing: `devloop doctor`"


class Pushed(NamedTuple):
    """What came of a push. `upload_ns` is this side's share, `call_ns` the whole last call."""

    applied: Applied
    tree: Digest
    blobs_sent: int = 0
    bytes_sent: int = 0
    upload_ns: int = 0
    call_ns: int = 0


class _Sent:
    def __init__(self) -> None:
        self.blobs = 0
        self.size_bytes = 0

    def count(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if isinstance(frame, SmallBlobs):
                self.blobs += len(frame.blobs)
                self.size_bytes += sum(len(blob.data) for blob in frame.blobs)
            else:
                self.blobs += int(frame.end)
                self.size_bytes += sum(
                    len(segment.data) for segment in frame.segments if isinstance(segment, Data)
                )
            yield frame


class Pusher:
    """Pushes trees of one project to one workspace. Not for concurrent use."""

    def __init__(
        self,
        client: AgentClient,
        workspace: WorkspaceRef,
        root: Path,
        *,
        compress: bool,
        progress: Progress | None = None,
        earlier: Mapping[Digest, Digest] | None = None,
    ) -> None:
        """`earlier` maps blobs to older versions of the same files, which the agent may hold."""
        self.client = client
        self.workspace = workspace
        self.root = root
        self.compress = compress
        self.progress = progress or Progress()
        self._earlier = earlier if earlier is not None else {}
        # The tree that the workspace is known to hold, with all its blobs in the agent's store.
        self.known: Node | None = None
        # Of the upload under way: the node of a large directory is sent in parts, as a file is.
        self._nodes: dict[bytes, bytes] = {}
        # Of the push under way: the blobs whose files the agent was to read itself.
        self._tried: set[Digest] = set()
        self._ahead: Ahead | None = None
        self._sending_ahead: asyncio.Task[None] | None = None

    def follow(self, ahead: Ahead) -> None:
        """Sends what a scan reads while it goes on. The next push waits for the end of it."""
        upload = ahead.upload(self.client, self.workspace, compress=self.compress)
        self._ahead, self._sending_ahead = ahead, asyncio.create_task(upload)

    async def close(self) -> None:
        """Idempotent."""
        if self._sending_ahead is not None:
            self._sending_ahead.cancel()
            await asyncio.wait([self._sending_ahead])
            self._ahead = self._sending_ahead = None

    async def _finish_ahead(self, tree: Node, sent: _Sent) -> None:
        """Waits for what goes ahead, and sends what was read and did not go."""
        if self._ahead is None or self._sending_ahead is None:
            return
        with self._ahead.tell(self.progress):
            await self._sending_ahead
        ahead, self._ahead, self._sending_ahead = self._ahead, None, None
        sent.blobs += ahead.blobs
        sent.size_bytes += ahead.size_bytes
        if ahead.left_out and ahead.held:
            blobs = _by_digest(_all_blobs(tree))
            rest = {digest: blob for digest, blob in blobs.items() if digest not in ahead.held}
            await self._upload_missing(tree, sent, rest)

    async def push(
        self,
        tree: Node,
        *,
        run: RunSpec | None = None,
        stop_runs: tuple[int, ...] = (),
        on_busy: OnBusy = OnBusy.FAIL,
    ) -> Pushed:
        """Raises SourcesChanged when files are no longer what `tree` says, and what calls raise."""
        sent = _Sent()
        self._tried.clear()
        began = time.perf_counter_ns()
        await self._finish_ahead(tree, sent)
        inline = await self._small_change(tree, sent)
        lacked: Counter[Digest] = Counter()
        while True:
            call_began = time.perf_counter_ns()
            applied = await self.client.apply(
                self.workspace,
                tree.digest,
                blobs=inline,
                run=run,
                stop_runs=stop_runs,
                on_busy=on_busy,
                repair=self.known is None,
            )
            if not applied.missing:
                if not (applied.busy or applied.gpus_busy):
                    self.known = tree
                now = time.perf_counter_ns()
                return Pushed(
                    applied,
                    tree.digest,
                    sent.blobs,
                    sent.size_bytes,
                    call_began - began,
                    now - call_began,
                )
            lacked.update(applied.missing)
            digest, times = lacked.most_common(1)[0]
            if times > MAX_SENDS:
                raise NotConverging(f"the agent still lacks {digest.short}")
            inline = []
            await self._upload_missing(tree, sent, _by_digest(_all_blobs(tree)))

    # -- a small change travels in the call

    async def _small_change(self, tree: Node, sent: _Sent) -> list[SmallBlob]:
        """The blobs that are new since the known tree; empty when they are many, or unknown."""
        if self.known is None or self.known.digest == tree.digest:
            return []
        blobs = list(_new_blobs(self.known, tree))
        size_bytes = sum(blob.size_bytes for blob in blobs)
        if len(blobs) > INLINE_BLOBS or size_bytes > INLINE_BYTES:
            return []
        upload = Upload(self._open, compress=self.compress)
        frames = list(sent.count(upload.frames(blobs)))
        if upload.changed:
            raise SourcesChanged(upload.changed)
        return [blob for frame in frames if isinstance(frame, SmallBlobs) for blob in frame.blobs]

    # -- anything else is asked for, and uploaded ahead

    async def _upload_missing(
        self, tree: Node, sent: _Sent, blobs: Mapping[Digest, Outgoing]
    ) -> None:
        missing = await self.client.missing(list(blobs))
        bases = {**self._earlier, **_previous_versions(self.known, tree)}
        outgoing = [
            self._offered(blobs[d]._replace(base=bases.get(d))) for d in missing if d in blobs
        ]
        self._nodes = {blob.path: blob.data for blob in outgoing if blob.data is not None}
        upload = Upload(self._open, compress=self.compress)
        files = len(outgoing) - len(self._nodes)
        with self.progress.uploading(files, sum(blob.size_bytes for blob in outgoing)):
            recipes = await self._recipes(outgoing, upload)
            self.progress.total_bytes -= sum(
                blobs[digest].size_bytes - recipe.sent_bytes for digest, recipe in recipes.items()
            )
            frames = sent.count(upload.frames(outgoing, recipes))
            await self.client.put(self._told(frames, sent, upload))
        if upload.changed:
            raise SourcesChanged(upload.changed)

    def _offered(self, blob: Outgoing) -> Outgoing:
        """A large file, for an agent on this machine to read itself. Once: if that did not bring
        the blob, it is sent, which finds out whether the file has changed."""
        if not self.workspace.local_root or not worth_offering(blob) or blob.digest in self._tried:
            return blob
        self._tried.add(blob.digest)
        return blob._replace(file=os.path.join(os.fsencode(self.root), blob.path))

    def _told(self, frames: Iterator[Frame], sent: _Sent, upload: Upload) -> Iterator[Frame]:
        """Each frame is counted once it is on its way. Tree nodes go first, and are no files."""
        nodes, before = len(self._nodes), sent.blobs
        for frame in frames:
            yield frame
            self.progress.sent(max(sent.blobs - before - nodes, 0), upload.read_bytes)

    async def _recipes(self, outgoing: list[Outgoing], upload: Upload) -> dict[Digest, Recipe]:
        """How to make each large new version of a file from the one that the agent holds."""
        recipes: dict[Digest, Recipe] = {}
        for blob in outgoing:
            if blob.base is None or not worth_chunking(blob):
                continue
            chunks = await asyncio.to_thread(upload.chunks, blob)
            ranges = []
            for question in questions(chunks):
                ranges += await self.client.find_chunks(blob.base, question) or []
            if chunks and len(ranges) == len(chunks):
                recipe = make_recipe(blob.base, chunks, ranges)
                if recipe is not None:
                    recipes[blob.digest] = recipe
        return recipes

    def _open(self, path: bytes) -> BinaryIO:
        """Raises OSError for what is not a regular file any more; never waits on a FIFO."""
        if (node := self._nodes.get(path)) is not None:
            return io.BytesIO(node)
        return os.fdopen(open_regular(os.path.join(os.fsencode(self.root), path)), "rb")


def _new_blobs(old: Node, new: Node) -> Iterator[Outgoing]:
    """Tree nodes and files of `new` that `old` does not have at the same path."""
    yield from _new_nodes(old, new)
    for change in diff_trees(old, new):
        if isinstance(change.new, File) and not (
            isinstance(change.old, File) and change.old.digest == change.new.digest
        ):
            yield Outgoing(change.new.digest, change.new.size_bytes, change.path)


def _new_nodes(old: Node | None, new: Node) -> Iterator[Outgoing]:
    if old is not None and old.digest == new.digest:
        return
    yield _outgoing_node(new)
    for name, child in new.children.items():
        yield from _new_nodes(old.children.get(name) if old is not None else None, child)


def _all_blobs(tree: Node) -> Iterator[Outgoing]:
    yield from _new_nodes(None, tree)
    for path, entry in walk_tree(tree):
        if isinstance(entry, File):
            yield Outgoing(entry.digest, entry.size_bytes, path)


def _by_digest(blobs: Iterable[Outgoing]) -> dict[Digest, Outgoing]:
    return {blob.digest: blob for blob in blobs}


def _outgoing_node(node: Node) -> Outgoing:
    return Outgoing(node.digest, len(node.encoded), b"\0" + node.digest, data=node.encoded)


def _previous_versions(old: Node | None, new: Node) -> dict[Digest, Digest]:
    """For each changed file, the blob that the agent held at its path."""
    if old is None:
        return {}
    return {
        change.new.digest: change.old.digest
        for change in diff_trees(old, new)
        if isinstance(change.old, File) and isinstance(change.new, File)
    }
