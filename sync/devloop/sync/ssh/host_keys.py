"""The known_hosts files of a host: looked up, and appended to. Nothing in them is ever rewritten.

Lines are found by `ssh-keygen -F` where OpenSSH is installed, elsewhere by our own matching.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigInvalid, HostKeyChanged, HostKeyError, HostKeyRevoked, HostKeyUnknown
from .known_hosts import Verdict, fingerprint, judge, line_for, matches, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .known_hosts import Entry, HostKey
    from .resolve import Resolved

__all__ = ["append", "entries_for", "refusal", "verdict_on"]

LOOKUP_TIMEOUT_S = 10.0


def verdict_on(resolved: Resolved, key: HostKey) -> Verdict:
    """As `ssh` decides: a host at another port than 22 may also be known by its name alone."""
    name = resolved.lookup_name
    verdict = judge(entries_for(resolved, name), key)
    plain = resolved.hostname.lower()
    if verdict is Verdict.UNKNOWN and resolved.host_key_alias is None and plain != name:
        fallback = judge(entries_for(resolved, plain), key)
        if fallback in (Verdict.KNOWN, Verdict.REVOKED):
            return fallback
    return verdict


def entries_for(resolved: Resolved, name: str) -> list[Entry]:
    """What all files of the host say about a name. Raises ConfigInvalid for one not readable."""
    files = (*resolved.known_hosts, *resolved.global_known_hosts)
    return [entry for file in files for entry in _entries_in(file, name)]


def refusal(resolved: Resolved, key: HostKey, verdict: Verdict) -> HostKeyError:
    shown, name = f"{key.type} {fingerprint(key)}", resolved.name
    if verdict is Verdict.REVOKED:
        return HostKeyRevoked.at(name, f"{name} shows a revoked host key: {shown}")
    if verdict is Verdict.CHANGED:
        words = f"the host key of {name} has changed; it shows {shown}"
        return HostKeyChanged.at(f"'{resolved.lookup_name}'", words)
    return HostKeyUnknown.at(name, f"the host key of {name} is not known: {shown}")


def append(resolved: Resolved, key: HostKey) -> None:
    """A line at the end of the user's first file, which is made when it is missing.

    Raises ConfigInvalid.
    """
    if not resolved.known_hosts:
        return
    file = resolved.known_hosts[0]
    line = line_for(resolved.lookup_name, key, hashed=resolved.hash_known_hosts)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{_line_end(descriptor)}{line}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigInvalid(
            f"cannot add the host key to {file}: {error.strerror}",
            hint="make it writable, or accept the key with `ssh` once",
        ) from None


def _line_end(descriptor: int) -> str:
    """A newline when the last line lacks one: appending would spoil it."""
    size = os.fstat(descriptor).st_size
    return "\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else ""


def _entries_in(file: Path, name: str) -> Iterator[Entry]:
    if not file.is_file():
        return
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        yield from (entry for entry in parse(_read(file)) if matches(entry.hosts, name))
        return
    # With a name that begins with a dash, -F takes the next word whatever it looks like.
    found = subprocess.run(
        [keygen, "-F", name, "-f", str(file)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LOOKUP_TIMEOUT_S,
        check=False,
    )
    yield from parse(found.stdout.decode(errors="surrogateescape").splitlines())


def _read(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise ConfigInvalid(f"cannot read {file}: {error.strerror}") from None
