"""Random layers that collide with each other, from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cafs.oci.stack import Member, tar_of

if TYPE_CHECKING:
    from random import Random

__all__ = ["random_stack"]

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


def random_stack(random: Random, layers: int) -> list[bytes]:
    """Tars, bottom to top. No hard link comes before its target: umoci is no oracle there."""
    files: list[bytes] = []
    return [tar_of(_layer(random, files)) for _ in range(layers)]


def _layer(random: Random, files: list[bytes]) -> list[Member]:
    members: list[Member] = []
    linked: set[bytes] = set()
    for _ in range(random.randrange(1, 14)):
        for member in _step(random, files):
            if not any(_plain_name(member.name) in (t, t + b"/") for t in linked):
                members.append(member)
            if member.type == b"1":
                linked.add(_plain_name(member.link))
    return members


def _plain_name(name: bytes) -> bytes:
    return name.removeprefix(b"./").lstrip(b"/")


def _step(random: Random, files: list[bytes]) -> list[Member]:
    directory = b"/".join(random.choices(_DIRECTORIES, k=random.choice([0, 1, 1, 2, 3])))
    path = f"{'/' * random.choice([0, 0, 0, 1])}".encode() + b"/".join(
        part for part in (directory, random.choice(_LEAVES)) if part
    )
    if random.random() < 0.1:
        path = b"./" + path.lstrip(b"/")
    what = random.choices(
        ["file", "dir", "symlink", "link", "hide", "opaque", "node", "parents"],
        [8, 5, 2, 3, 3, 2, 1, 3],
    )[0]
    metadata = _metadata(random)
    match what:
        case "file":
            files.append(path)
            data = random.randbytes(random.choice([0, 1, 511, 512, 513, 5000]))
            return [Member(path, b"0", data, **metadata)]
        case "dir":
            return [Member((directory or b"a") + b"/", b"5", **metadata)]
        case "symlink":
            target = random.choice([b"a", b"/b", b"../c", b"../../..", b"nowhere/x", b"."])
            return [Member(path, b"2", link=target, **_plain(metadata))]
        case "link":
            if files:
                return [Member(path, b"1", link=random.choice(files))]
        case "hide":
            parent, _, name = path.rpartition(b"/")
            name = random.choice([name, *_DIRECTORIES[:3]])
            return [Member(parent + b"/.wh." + name)]
        case "opaque":
            return [Member((directory + b"/" if directory else b"") + b".wh..wh..opq")]
        case "node":
            kind = random.choice([b"3", b"4", b"6"])
            rdev = (random.choice([1, 7, 4095]), random.choice([0, 5, 300, 2**20 - 1]))
            return [Member(path, kind, rdev=rdev if kind != b"6" else (0, 0), **_plain(metadata))]
        case "parents":
            parts = directory.split(b"/") if directory else []
            paths = [b"/".join(parts[: n + 1]) + b"/" for n in range(len(parts))]
            return [Member(p, b"5", **_metadata(random)) for p in paths]
    return []


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
    if random.random() < 0.1:
        pax[b"uid"] = b"%d" % random.randrange(2**32 - 1)
    return {
        "mode": random.choice([0o644, 0o755, 0o4755, 0o2750, 0o1777, 0, 0o600]),
        "uid": random.choice([0, 1000, 2**21 + 5]),
        "gid": random.choice([0, 100, 65534]),
        "mtime": random.choice([0, 1, 1_600_000_000, 2**33, -5]),
        "pax": pax,
    }
