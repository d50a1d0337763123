"""What OpenSSH says on stderr, as one of our errors. Pure. Its messages are never translated."""

from __future__ import annotations

import re

from .errors import (
    AuthenticationFailed,
    ClosedEarly,
    ConfigInvalid,
    ConnectFailed,
    ConnectTimedOut,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    HostUnknown,
    LinkLost,
    PortRefused,
    SshError,
)

__all__ = ["error_from_words"]

LAST_LINES = 3

# In this order: what a host key is worth comes before how the connection ended.
_CAUSES: tuple[tuple[str, type[SshError]], ...] = (
    (r"REVOKED HOST KEY|[Hh]ost key .*revoked|marked as revoked", HostKeyRevoked),
    (r"HOST IDENTIFICATION HAS CHANGED|[Hh]ost key for .* has changed", HostKeyChanged),
    (r"host key is known for|Host key verification failed|No .*host key", HostKeyUnknown),
    (
        r"[Bb]ad configuration option|bad configuration options|Bad owner or permissions",
        ConfigInvalid,
    ),
    (
        r"Permission denied|Too many authentication failures|authentication methods",
        AuthenticationFailed,
    ),
    (r"Could not resolve hostname", HostUnknown),
    (r"Connection refused", PortRefused),
    (r"Timeout, server .* not responding", LinkLost),
    (r"closed by remote host\.|client_loop: |Broken pipe", LinkLost),
    (r"timed out", ConnectTimedOut),
    (r"kex_exchange_identification|Connection (closed|reset)|banner", ClosedEarly),
)
_IN_SHORT: dict[type[SshError], str] = {
    HostKeyChanged: "the host key has changed",
    HostKeyRevoked: "the host key is revoked",
    HostKeyUnknown: "the host key is not known",
}
_NOISE = re.compile(r"@{5,}|@ .* @|debug\d: |Warning: Permanently added|Pseudo-terminal|\s*$")


def error_from_words(host: str, words: str) -> SshError:
    """`words`: what `ssh` printed before it gave up."""
    for pattern, kind in _CAUSES:
        if re.search(pattern, words):
            return kind.at(host, _message(host, kind, words))
    return ConnectFailed.at(host, _message(host, ConnectFailed, words))


def _message(host: str, kind: type[SshError], words: str) -> str:
    """In short what it is about, where ssh's last lines alone do not tell, and those lines."""
    lines = [line.strip() for line in words.splitlines()]
    said = [line for line in lines if not _NOISE.match(line)][-LAST_LINES:]
    if kind in _IN_SHORT:
        shown = re.search(r"SHA256:[\w+/]+", words)
        said.insert(0, _IN_SHORT[kind] + (f", it shows {shown[0]}" if shown else ""))
    return f"cannot reach {host}: {'; '.join(said) or 'ssh said nothing'}"
