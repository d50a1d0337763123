"""What differs between the code of two runs, from the trees that they were pinned to.

Asks the agent for the tree nodes that differ, then for the files; both may be gone from its store.
Makes text; knows no colour and no screen.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from devloop.cafs.errors import DevloopError
from devloop.cafs.tree import Dir, File, Symlink, decode_node, empty_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from devloop.cafs.digest import Digest
    from devloop.cafs.tree import Entry

    from .client import AgentClient

__all__ = ["CodeGone", "diff_of_code"]

MOST_FILE_BYTES = 1 << 20  # larger ones are named only
MOST_FILES = 500
MOST_LINES = 20_000  # of one file: what tells lines apart takes the square of their number


class CodeGone(DevloopError):
    """A tree is in the agent's store no more."""

    hint = "the box keeps what no project needs for a while only: `agent.store_limit`"


class _Pair(NamedTuple):
    """A directory in both trees; None where it is not."""

    path: bytes
    old: Digest | None
    new: Digest | None


class _Changed(NamedTuple):
    path: bytes
    old: File | Symlink | None
    new: File | Symlink | None


_Nodes: TypeAlias = "Mapping[Digest, Mapping[bytes, Entry]]"


async def diff_of_code(client: AgentClient, old: Digest, new: Digest) -> list[str]:
    """The lines of a unified diff, without their ends; none where the trees are alike.

    Raises CodeGone, and what calls raise.
    """
    changed = await _changed_files(client, old, new)
    shown = changed[:MOST_FILES]
    blobs = await client.read_blobs([d for change in shown for d in _digests(change)])
    lines = await asyncio.to_thread(lambda: [line for c in shown for line in _lines(c, blobs)])
    if len(changed) > len(shown):
        lines.append(f"and {len(changed) - len(shown):,} more files")
    return lines


async def _changed_files(client: AgentClient, old: Digest, new: Digest) -> list[_Changed]:
    """One call a level of the trees; what is alike is not entered."""
    changed: list[_Changed] = []
    level = [_Pair(b"", old, new)] if old != new else []
    while level:
        nodes = await _nodes(client, {d for _, *pair in level for d in pair if d is not None})
        below: list[_Pair] = []
        for pair in level:
            _compare(pair, nodes, changed, below)
        level = below
    return sorted(changed, key=lambda change: change.path)


async def _nodes(client: AgentClient, wanted: set[Digest]) -> _Nodes:
    empty = empty_tree().digest
    blobs = await client.read_blobs(sorted(wanted - {empty}))
    if missing := wanted - {empty} - blobs.keys():
        raise CodeGone(f"the code of that run is gone from the box ({len(missing)} folders of it)")
    return {empty: {}} | {digest: decode_node(data) for digest, data in blobs.items()}


def _compare(pair: _Pair, nodes: _Nodes, changed: list[_Changed], below: list[_Pair]) -> None:
    before = nodes[pair.old] if pair.old is not None else {}
    after = nodes[pair.new] if pair.new is not None else {}
    for name in before.keys() | after.keys():
        old, new, path = before.get(name), after.get(name), pair.path + name
        old_dir = old.digest if isinstance(old, Dir) else None
        new_dir = new.digest if isinstance(new, Dir) else None
        if old_dir != new_dir:
            below.append(_Pair(path + b"/", old_dir, new_dir))
        old_file = old if not isinstance(old, Dir) else None
        new_file = new if not isinstance(new, Dir) else None
        if _content(old_file) != _content(new_file):
            changed.append(_Changed(path, old_file, new_file))


def _content(entry: File | Symlink | None) -> bytes | None:
    return entry.digest if isinstance(entry, File) else entry.target if entry is not None else None


def _digests(change: _Changed) -> Iterator[Digest]:
    for entry in (change.old, change.new):
        if isinstance(entry, File) and entry.size_bytes <= MOST_FILE_BYTES:
            yield entry.digest


def _lines(change: _Changed, blobs: Mapping[Digest, bytes]) -> Iterator[str]:
    """Of one file."""
    name = os.fsdecode(change.path)
    old_name = f"a/{name}" if change.old is not None else "/dev/null"
    new_name = f"b/{name}" if change.new is not None else "/dev/null"
    old, new = _text(change.old, blobs), _text(change.new, blobs)
    if old is None or new is None:
        yield from (f"--- {old_name}", f"+++ {new_name}", "no text, too large, or no longer there")
        return
    yield from difflib.unified_diff(old, new, old_name, new_name, lineterm="")


def _text(entry: File | Symlink | None, blobs: Mapping[Digest, bytes]) -> list[str] | None:
    """Its lines; None: there is nothing to be read."""
    if entry is None:
        return []
    if isinstance(entry, Symlink):
        return [f"-> {os.fsdecode(entry.target)}"]
    data = blobs.get(entry.digest)
    if data is None or b"\0" in data or data.count(b"\n") > MOST_LINES:
        return None
    return data.decode(errors="replace").splitlines()
