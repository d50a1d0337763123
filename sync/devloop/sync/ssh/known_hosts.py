"""What known_hosts files say about a host's key: the verdict of `ssh`. Pure but for `read`.

The format is that of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT: marker, hosts, key type, key, comment.
A line that is none of that is skipped, as `ssh` does.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Entry",
    "HostKey",
    "Verdict",
    "fingerprint",
    "judge",
    "known_key_types",
    "line_for",
    "matches",
    "parse",
]


class HostKey(NamedTuple):
    """`blob`: as on the wire, which begins with the type."""

    type: str
    blob: bytes


class Entry(NamedTuple):
    """`marker`: "", "cert-authority" or "revoked". `hosts`: the field as it stands in the file."""

    marker: str
    hosts: str
    key: HostKey


class Verdict(enum.Enum):
    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


def parse(lines: Iterable[str]) -> Iterator[Entry]:
    for line in lines:
        words = line.strip(" \t\r\n").split(None, 4)
        if not words or words[0].startswith("#"):
            continue
        marker = ""
        if words[0].startswith("@"):
            marker = words.pop(0)[1:]
            if marker not in ("cert-authority", "revoked"):
                continue
        if len(words) >= 3 and (key := _key(words[1], words[2])) is not None:
            yield Entry(marker, words[0], key)


def matches(hosts: str, name: str) -> bool:
    """`name`: a lower-case host, or `[host]:port`. `*` and `?` are wildcards, `!` excludes."""
    if hosts.startswith("|"):
        return _matches_hashed(hosts, name)
    found = False
    for pattern in hosts.lower().split(","):
        if _matches_pattern(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def judge(entries: Iterable[Entry], key: HostKey) -> Verdict:
    """`entries`: those whose hosts match. Any other key of the host makes a change, of any type."""
    verdict = Verdict.UNKNOWN
    for entry in entries:
        if entry.marker == "revoked" and entry.key == key:
            return Verdict.REVOKED
        if entry.marker:
            continue
        if entry.key == key:
            verdict = Verdict.KNOWN
        elif verdict is Verdict.UNKNOWN:
            verdict = Verdict.CHANGED
    return verdict


def known_key_types(entries: Iterable[Entry]) -> list[str]:
    """To ask the far side for: a key of another type would look like a change."""
    return list(dict.fromkeys(entry.key.type for entry in entries if not entry.marker))


def fingerprint(key: HostKey) -> str:
    """As `ssh` shows it."""
    digest = base64.b64encode(hashlib.sha256(key.blob).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def line_for(name: str, key: HostKey, *, hashed: bool) -> str:
    """One line to append, without a newline."""
    hosts = _hashed(name, os.urandom(20)) if hashed else name
    return f"{hosts} {key.type} {base64.b64encode(key.blob).decode()}"


def _key(key_type: str, encoded: str) -> HostKey | None:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    size = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + size] != key_type.encode():
        return None
    return HostKey(key_type, blob)


def _hashed(name: str, salt: bytes) -> str:
    digest = hmac.digest(salt, name.encode(), "sha1")
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


def _matches_hashed(hosts: str, name: str) -> bool:
    parts = hosts.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return False
    try:
        salt = base64.b64decode(parts[2], validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(_hashed(name, salt), hosts)


def _matches_pattern(pattern: str, name: str) -> bool:
    words = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(words), name, re.DOTALL) is not None
