"""Layers laid over each other: one tree of the entries that nothing hides.

Owns whiteouts, hard links and how a path finds its directory. Pure: knows neither tar nor content.

Entries are applied in the order of their archive, as umoci does it:
- A whiteout hides what the layers below have, and never an entry of its own layer, whichever of
  the two comes first: a node knows which layer has touched it or something below it.
- A symbolic link on the way to an entry is followed inside the image: an absolute target begins at
  its root, and ".." at the root stays there. The last component is never followed. Links that
  lead to each other are refused, also on the way to a whiteout.
- A directory over a directory keeps what is in it; anything else takes the place of what was there.
- Missing parents are made: mode 0755, root's, and of 1970, so that an image has one index.
- A hard link is to the file of that name in its own layer, before or after it, or else to the one
  in the layers below as it was when the link came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from devloop.cafs.index import MAX_NAME_BYTES, MAX_PATH_BYTES, Inode

from .names import NameInvalid, Path, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Entry", "Tree"]

EntryKind = Literal["put", "link", "hide", "opaque"]

_MAX_LINKS = 40  # followed on the way to one entry; the kernel has the same limit
_MADE_DIRECTORY = Inode("dir", 0o755, 0, 0, 0)
_LINK = Inode("file", 0, 0, 0, 0)  # stands where a hard link is; its origin has the real one


class Entry(NamedTuple):
    """What one member of a layer asks for: put `inode` at `path`; make `path` a link to `target`;
    hide what is at `path`, or (opaque) all that is in it."""

    kind: EntryKind
    path: Path
    inode: Inode | None = None
    target: Path = ()


class _Node:
    """A name. `origin` is the first name of its file: itself, unless it is a hard link."""

    __slots__ = ("children", "inode", "layer", "origin", "target")

    def __init__(self, inode: Inode, layer: int) -> None:
        self.inode = inode
        self.children: dict[bytes, _Node] | None = {} if inode.kind == "dir" else None
        self.layer = layer  # the last one that has put this, or something below it
        self.origin: _Node | None = self
        self.target: Path | None = None  # of a link that waits for the end of its layer


class Tree:
    """Raises NameInvalid, and is of no use afterwards."""

    def __init__(self) -> None:
        self._root = _Node(_MADE_DIRECTORY, 0)
        self._layer = 0
        self._waiting: list[_Node] = []

    def add_layer(self, entries: Iterable[Entry]) -> None:
        """Layers come bottom to top."""
        self._layer += 1
        for entry in entries:
            if entry.kind == "put":
                assert entry.inode is not None
                self._put(entry.path, entry.inode)
            elif entry.kind == "link":
                self._link(entry.path, entry.target)
            elif entry.kind == "hide":
                self._hide(entry.path)
            else:
                self._hide_all(entry.path)
        for node in self._waiting:
            self._resolve_links(node)
        self._waiting = []

    def flattened(self) -> tuple[tuple[Inode, ...], tuple[tuple[bytes, int], ...]]:
        """The inodes and the names of an index."""
        numbers: dict[int, int] = {}
        inodes: list[Inode] = []
        names: list[tuple[bytes, int]] = []
        for path, node in sorted(self._walk(), key=lambda found: found[0]):
            origin = node.origin
            assert origin is not None
            number = numbers.get(id(origin))
            if number is None:
                number = numbers[id(origin)] = len(inodes)
                inodes.append(origin.inode)
            names.append((path, number))
        return tuple(inodes), tuple(names)

    def _walk(self) -> Iterator[tuple[bytes, _Node]]:
        yield b"", self._root
        waiting = [(b"", self._root)]
        while waiting:
            prefix, node = waiting.pop()
            for name, child in (node.children or {}).items():
                path = prefix + name
                if len(path) > MAX_PATH_BYTES:  # by way of a symbolic link
                    raise NameInvalid(f"a path of {len(path):,} bytes: {shown(path)}")
                yield path, child
                if child.children:
                    waiting.append((path + b"/", child))

    # ------------------------------------------------------------------ entries

    def _put(self, path: Path, inode: Inode) -> None:
        if not path:
            if inode.kind != "dir":
                raise NameInvalid("an entry for the root that is no directory")
            self._root.inode = inode
            return
        siblings = self._siblings(path)
        node = siblings.get(path[-1])
        if node is not None and node.children is not None and inode.kind == "dir":
            node.inode = inode
            node.layer = self._layer
        else:
            siblings[path[-1]] = _Node(inode, self._layer)

    def _link(self, path: Path, target: Path) -> None:
        """Unless its own layer has had the target, it waits for that, with what is there now."""
        if not path:
            raise NameInvalid("an entry for the root that is no directory")
        siblings = self._siblings(path)
        siblings.pop(path[-1], None)
        found = self._find(target)
        node = siblings[path[-1]] = _Node(_LINK, self._layer)
        node.origin = found.origin if found is not None else None
        node.target = target
        if found is not None and found.layer == self._layer and found.target is None:
            self._settle(node, found)
        else:
            self._waiting.append(node)

    def _resolve_links(self, node: _Node) -> None:
        """Those that it is a link to first, however many they are."""
        chain = {id(node): node}
        while chain:
            last = next(reversed(chain.values()))
            found = self._find(last.target) if last.target is not None else None
            if found is not None and found.target is not None and id(found) not in chain:
                chain[id(found)] = found
                continue
            if last.target is not None:
                self._settle(last, found)
            chain.popitem()

    def _settle(self, node: _Node, found: _Node | None) -> None:
        """What its own layer has goes before what was there when the link came."""
        is_file = found is not None and found.target is None and found.children is None
        if found and is_file and (found.layer == self._layer or node.origin is None):
            node.origin = found.origin
        if node.origin is None or node.origin.children is not None:
            where = shown(b"/".join(node.target or ()))
            raise NameInvalid(f"a hard link to {where}, which is no file")
        node.target = None

    def _hide(self, path: Path) -> None:
        siblings = self._follow(path[:-1]).end()
        child = siblings.get(path[-1]) if siblings is not None else None
        if siblings is None or child is None:
            return
        if child.layer != self._layer:
            del siblings[path[-1]]
        else:
            self._hide_below(child)

    def _hide_all(self, path: Path) -> None:
        directory = self._directory(path)
        if directory is not None:
            self._hide_below(directory)

    def _hide_below(self, top: _Node) -> None:
        waiting = [top]
        while waiting:
            children = waiting.pop().children or {}
            for name, child in list(children.items()):
                if child.layer != self._layer:
                    del children[name]
                else:
                    waiting.append(child)

    # ------------------------------------------------------------------ finding

    def _siblings(self, path: Path) -> dict[bytes, _Node]:
        """What is in the directory that `path` is to be in, made if missing; all above it count as
        touched by this layer."""
        trail = self._follow(path[:-1])
        for node in trail.nodes:
            node.layer = self._layer
        if trail.has_made:
            for name, node, parent in trail.steps():
                if parent.children is not None:
                    parent.children.setdefault(name, node)
        children = trail.end()
        if children is None:
            raise NameInvalid(f"{shown(b'/'.join(path))} in something that is no directory")
        return children

    def _directory(self, path: Path) -> _Node | None:
        trail = self._follow(path)
        return trail.nodes[-1] if trail.end() is not None else None

    def _find(self, path: Path) -> _Node | None:
        if not path:
            return self._root
        siblings = self._follow(path[:-1]).end()
        return siblings.get(path[-1]) if siblings is not None else None

    def _follow(self, path: Path) -> _Trail:
        """From the root down to `path`, as if all of it were directories."""
        trail = _Trail(self._root)
        nodes = trail.nodes
        ahead = list(reversed(path))
        links_left = _MAX_LINKS
        while ahead:
            name = ahead.pop()
            node = (nodes[-1].children or {}).get(name)
            if node is None:
                trail.make(name, self._layer)
            elif node.children is not None:
                trail.names.append(name)
                nodes.append(node)
            elif (target := _target(node)) is not None:
                if not links_left:
                    raise NameInvalid(
                        f"too many symbolic links on the way to {shown(b'/'.join(path))}"
                    )
                links_left -= 1
                if target[:1] == b"/":
                    trail.back_to_root()
                ahead += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
            else:
                trail.make(name, self._layer)
        return trail


class _Trail:
    """The nodes from the root down to somewhere. One that is missing, or takes the place of what is
    no directory, is a directory of which its parent knows nothing yet."""

    __slots__ = ("has_made", "names", "nodes")

    def __init__(self, root: _Node) -> None:
        self.names: list[bytes] = []
        self.nodes = [root]
        self.has_made = False

    def make(self, name: bytes, layer: int) -> None:
        """Or back a step: ".." is what a symbolic link may have, and no child's name."""
        if name == b"..":
            self.names = self.names[:-1]
            del self.nodes[max(1, len(self.nodes) - 1) :]
            return
        if len(name) > MAX_NAME_BYTES:  # a target's: those of entries have been looked at
            raise NameInvalid(f"a symbolic link over a name of {len(name):,} bytes: {shown(name)}")
        self.has_made = True
        self.names.append(name)
        self.nodes.append(_Node(_MADE_DIRECTORY, layer))

    def back_to_root(self) -> None:
        self.names.clear()
        del self.nodes[1:]

    def steps(self) -> Iterator[tuple[bytes, _Node, _Node]]:
        """Every name, its node and its parent."""
        return zip(self.names, self.nodes[1:], self.nodes, strict=False)

    def end(self) -> dict[bytes, _Node] | None:
        """What the last directory holds; None when it is not there."""
        if self.has_made:
            for name, node, parent in self.steps():
                if parent.children is None or parent.children.get(name) is not node:
                    return None
        return self.nodes[-1].children


def _target(node: _Node) -> bytes | None:
    """Of a symbolic link, also one with several names."""
    origin = node.origin
    return origin.inode.target if origin is not None and origin.inode.kind == "symlink" else None
