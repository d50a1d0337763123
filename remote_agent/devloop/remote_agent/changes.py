"""What differs between trees, path by path: plain values in and out, no I/O and no state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devloop.cafs.tree import Change, Dir, File, diff_trees

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from devloop.cafs.tree import Entry, Node

__all__ = ["all_new", "changes_between", "entry_at", "makes_way", "size_bytes_of_files"]


def changes_between(bases: list[Node], target: Node) -> dict[bytes, Change]:
    """What differs between the target and any tree that files on disk may come from, by path.

    Of several changes of one path, one that makes way for another kind of entry counts.
    """
    changes: dict[bytes, Change] = {}
    for base in bases:
        for change in diff_trees(base, target):
            if change.path not in changes or makes_way(change):
                changes[change.path] = change
    return changes


def all_new(target: Node, whole: Container[bytes], prefix: bytes = b"") -> Iterator[Change]:
    """Every entry of the target, but for what is below the folders `whole`."""
    for name, entry in target.entries.items():
        path = prefix + name
        yield Change(path, None, entry)
        if isinstance(entry, Dir) and path not in whole:
            yield from all_new(target.children[name], whole, path + b"/")


def makes_way(change: Change) -> bool:
    """Is what was there of another kind, or gone?"""
    return change.old is not None and type(change.old) is not type(change.new)


def size_bytes_of_files(node: Node) -> int:
    """Of those in the directory itself."""
    return sum(entry.size_bytes for entry in node.entries.values() if isinstance(entry, File))


def entry_at(node: Node, path: bytes) -> Entry | None:
    *parents, name = path.split(b"/")
    for parent in parents:
        below = node.children.get(parent)
        if below is None:
            return None
        node = below
    return node.entries.get(name)
