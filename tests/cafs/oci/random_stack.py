"""Random layers that collide with each other, from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from tests.cafs.oci.sparse import FORMS, Pieces, sparse_member
from tests.cafs.oci.stack import Member, encoded, gnu_encoded, tar_of, ustar_encoded

if TYPE_CHECKING:
    from random import Random

__all__ = ["RandomLayer", "random_stack"]

_DIRECTORIES = [b"a", b"b", b"c", b"\xc3\xa4 \xff", b"d" * 200]
_LEAVES = [b"f", b"g", b"h", b"\xfe", b"l" * 150, b"a", b"b", b".hidden"]
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
_XATTRS = [
    (b"user.note", b"text"),
    (b"user.binary", bytes(range(256))),
    (b"user.empty", b""),
    (b"security.capability", _CAPABILITY),
    (b"trusted.thing", b"\0=\n"),
]
_COMPRESSIONS: list[Literal["gzip", "zstd", "plain"]] = ["gzip", "zstd", "plain"]
_ENCODINGS = [encoded, encoded, ustar_encoded, gnu_encoded]


class RandomLayer(NamedTuple):
    """`for_umoci`: the same in words that it knows. Links that come before their targets come last,
    and what is sparse in GNU's old way is not sparse."""

    tar: bytes
    for_umoci: bytes
    compression: Literal["gzip", "zstd", "plain"]


class _Both(NamedTuple):
    """A member, encoded."""

    ours: bytes
    for_umoci: bytes


def random_stack(random: Random, layers: int) -> list[RandomLayer]:
    """Bottom to top."""
    files: list[bytes] = []
    return [_layer(random, files) for _ in range(layers)]


def _layer(random: Random, files: list[bytes]) -> RandomLayer:
    members: list[_Both] = []
    linked: set[bytes] = set()
    for _ in range(random.choice([0, *range(1, 14), *range(1, 14)])):
        for member, content in _step(random, files):
            if not any(_plain_name(member.name) in (t, t + b"/") for t in linked):
                members.append(_encoded(random, member, content))
            if member.type == b"1":
                linked.add(_plain_name(member.link))
    early = _early_links(random, members)
    ours = [member.ours for member in members]
    for link in early:
        ours.insert(random.randrange(len(ours) + 1), link)
    theirs = tar_of([member.for_umoci for member in members] + early)
    return RandomLayer(tar_of(ours), theirs, random.choice(_COMPRESSIONS))


def _early_links(random: Random, members: list[_Both]) -> list[bytes]:
    """To files of their own layer, which are added to `members`. umoci wants the target first, and
    all else of a layer leaves this folder alone: so for it they may come last."""
    if random.random() < 0.6:
        return []
    targets = random.sample([b"early/t0", b"early/t1", b"early/t2"], random.randrange(1, 4))
    for target in targets:
        member = Member(target, data=random.randbytes(20), **_metadata(random))
        members.insert(random.randrange(len(members) + 1), _encoded(random, member, None))
    names = random.sample([b"early/l0", b"early/l1", b"early/l2", b"early/l3"], 2)
    return [encoded(Member(name, b"1", link=random.choice(targets))) for name in names]


def _encoded(random: Random, member: Member, content: Pieces | None) -> _Both:
    if content is None:
        data = random.choice(_ENCODINGS)(member)
        return _Both(data, data)
    form = random.choice(FORMS)
    data = sparse_member(member, content, form)
    if form != "old":
        return _Both(data, data)
    return _Both(data, encoded(member._replace(data=content.flat, pax={})))


def _plain_name(name: bytes) -> bytes:
    return name.removeprefix(b"./").lstrip(b"/")


def _step(random: Random, files: list[bytes]) -> list[tuple[Member, Pieces | None]]:
    directory = b"/".join(random.choices(_DIRECTORIES, k=random.choice([0, 1, 1, 2, 3])))
    path = f"{'/' * random.choice([0, 0, 0, 1])}".encode() + b"/".join(
        part for part in (directory, random.choice(_LEAVES)) if part
    )
    if random.random() < 0.1:
        path = b"./" + path.lstrip(b"/")
    what = random.choices(
        ["file", "sparse", "dir", "symlink", "link", "hide", "opaque", "node", "parents", "aufs"],
        [8, 2, 5, 2, 3, 3, 3, 1, 3, 0.3],
    )[0]
    metadata = _metadata(random)
    match what:
        case "file":
            files.append(path)
            data = random.randbytes(random.choice([0, 1, 511, 512, 513, 5000]))
            return [(Member(path, random.choice([b"0", b"0", b"\0"]), data, **metadata), None)]
        case "sparse" if len(path) <= 100:
            files.append(path)
            return [(Member(path, **metadata), _pieces(random))]
        case "dir":
            return [(Member((directory or b"a") + b"/", b"5", **metadata), None)]
        case "symlink":
            target = random.choice(
                [b"a", b"/b", b"../c", b"../../..", b"nowhere/x", b".", b"t" * 150]
            )
            return [(Member(path, b"2", link=target, **_plain(metadata)), None)]
        case "link":
            if files:
                return [(Member(path, b"1", link=random.choice(files)), None)]
        case "hide":
            return [(_whiteout(random, path), None)]
        case "opaque":
            return [(one, None) for one in _opaque(random, directory)]
        case "node":
            kind = random.choice([b"3", b"4", b"6"])
            rdev = (random.choice([1, 7, 4095]), random.choice([0, 5, 300, 2**20 - 1]))
            rdev = rdev if kind != b"6" else (0, 0)
            return [(Member(path, kind, rdev=rdev, **_plain(metadata)), None)]
        case "parents":
            parts = directory.split(b"/") if directory else []
            paths = [b"/".join(parts[: n + 1]) + b"/" for n in range(len(parts))]
            return [(Member(p, b"5", **_metadata(random)), None) for p in paths]
        case "aufs":
            name = random.choice([b".wh..wh.plnk", b".wh..wh.aufs", b".wh..wh.orph"])
            return [(Member(b"/".join(part for part in (directory, name) if part)), None)]
    return []


def _whiteout(random: Random, path: bytes) -> Member:
    """Whatever kind it is of, and whatever is in it."""
    parent, _, name = path.rpartition(b"/")
    name = random.choice([name, *_DIRECTORIES[:3]])
    kind = random.choice([b"0", b"0", b"0", b"0", b"2", b"6"])
    data = random.choice([b"", b"", b"said"]) if kind == b"0" else b""
    return Member(parent + b"/.wh." + name, kind, data, link=b"x" if kind == b"2" else b"")


def _opaque(random: Random, directory: bytes) -> list[Member]:
    """Alone, or among whiteouts and files of the same directory, in any order."""
    start = directory + b"/" if directory else b""
    others = random.sample(_LEAVES, random.choice([0, 0, 1, 2]))
    members = [Member(start + random.choice([b".wh.", b""]) + name) for name in others]
    members.append(Member(start + b".wh..wh..opq"))
    random.shuffle(members)
    return members


def _pieces(random: Random) -> Pieces:
    """Up to what needs two more blocks of an old header, and a second block of the newest map."""
    pieces, position = [], 0
    for _ in range(random.choice([0, 1, 2, 4, 5, 26, 80])):
        position += random.choice([0, 512, 4096, 70_000])
        data = random.randbytes(random.choice([512, 1024, 700]))
        if pieces and position == pieces[-1][0] + len(pieces[-1][1]):
            position += 512
        pieces.append((position, data))
        position += len(data)
    size_bytes = position + random.choice([0, 0, 1, 100_000])
    if not pieces or random.random() < 0.5:  # GNU tar's own maps end so; Go takes no empty one
        pieces.append((size_bytes, b""))
    return Pieces(pieces, size_bytes)


def _plain(metadata: dict[str, object]) -> dict[str, object]:
    """The kernel takes no user.* of symbolic links and devices."""
    pax = metadata["pax"]
    assert isinstance(pax, dict)
    kept = {key: value for key, value in pax.items() if b"xattr.user" not in key}
    return {**metadata, "pax": {k: v for k, v in kept.items() if b"capability" not in k}}


def _metadata(random: Random) -> dict[str, object]:
    pax = {}
    if random.random() < 0.3:
        for name, value in random.sample(_XATTRS, random.randrange(1, 3)):
            pax[b"SCHILY.xattr." + name] = value
    if random.random() < 0.5:
        pax[b"mtime"] = b"%d.%09d" % (random.randrange(2**31), random.randrange(10**9))
    if random.random() < 0.1:
        pax[b"mtime"] = b"-%d.5" % random.randrange(2**31 - 1)
    for key in (b"uid", b"gid"):
        if random.random() < 0.1:
            pax[key] = b"%d" % random.randrange(2**32 - 1)
    return {
        "mode": random.choice([0o644, 0o755, 0o4755, 0o2750, 0o1777, 0, 0o600]),
        "uid": random.choice([0, 1000, 2**21 + 5]),
        "gid": random.choice([0, 100, 65534]),
        "mtime": random.choice([0, 1, 1_600_000_000, 2**33, -5]),
        "pax": pax,
    }
