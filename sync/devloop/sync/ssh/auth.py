"""Proving who the user is, with paramiko, in the order of `ssh`: keys, questions, a password.

Blocks: for a thread. Asks through an `Asker`, which says None where nobody answers.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Protocol

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import PublicBlob, UnknownKeyType

from .errors import AuthenticationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .resolve import Resolved

__all__ = ["Asker", "authenticate"]

TRIES = 3
# cryptography's own words, for a key that is encrypted, and for one that the words do not open.
_ENCRYPTED = (paramiko.PasswordRequiredException, TypeError)


class Asker(Protocol):
    """The `Prompter`, from a thread."""

    def ask(self, question: str, *, secret: bool) -> str | None: ...


def authenticate(transport: paramiko.Transport, resolved: Resolved, asker: Asker) -> None:
    """Raises AuthenticationFailed, and paramiko's errors when the connection ends."""
    attempt = _Attempt(transport, resolved, asker)
    with _agent(resolved) as agent:
        methods: tuple[Callable[[], None], ...] = (
            attempt.none,
            lambda: attempt.keys(agent),
            attempt.questions,
            attempt.password,
        )
        for method in methods:
            method()
            if transport.is_authenticated():
                return
    raise AuthenticationFailed.at(
        resolved.name, f"{resolved.user}@{resolved.name} was not let in: {attempt.summary()}"
    )


class _Attempt:
    """`allowed`: the methods that the far side would take next."""

    def __init__(self, transport: paramiko.Transport, resolved: Resolved, asker: Asker) -> None:
        self._transport = transport
        self._resolved = resolved
        self._asker = asker
        self.allowed: Sequence[str] = ()
        self._tried: list[str] = []

    def none(self) -> None:
        """Asks what is allowed; some hosts let everybody in."""
        try:
            self._transport.auth_none(self._resolved.user)
        except paramiko.BadAuthenticationType as error:
            self.allowed = error.allowed_types

    def keys(self, agent: AgentSSH) -> None:
        if "publickey" not in self.allowed:
            return
        for name, key in _keys(self._resolved, agent, self._asker):
            self._tried.append(f"key {name}")
            with self._one_try():
                self._took(self._transport.auth_publickey(self._resolved.user, key))
            # Before the next key is looked at, which may ask for a passphrase.
            if "publickey" not in self.allowed or self._transport.is_authenticated():
                return

    def questions(self) -> None:
        for _ in range(TRIES):
            if "keyboard-interactive" not in self.allowed or self._transport.is_authenticated():
                return
            asked = _Questions(self._resolved, self._asker)
            with self._one_try():
                self._took(self._transport.auth_interactive(self._resolved.user, asked.answer))
            if asked.count:
                self._tried.append("questions")
            if asked.unanswered or not asked.count:
                return

    def password(self) -> None:
        for _ in range(TRIES):
            if "password" not in self.allowed or self._transport.is_authenticated():
                return
            question = f"{self._resolved.user}@{self._resolved.hostname}'s password: "
            password = self._asker.ask(question, secret=True)
            if password is None:
                return
            self._tried.append("password")
            with self._one_try():
                self._took(
                    self._transport.auth_password(self._resolved.user, password, fallback=False)
                )

    def summary(self) -> str:
        tried = ", ".join(dict.fromkeys(self._tried)) or "nothing to offer"
        return f"tried {tried}; it takes {', '.join(self.allowed) or 'nothing'}"

    @contextlib.contextmanager
    def _one_try(self) -> Iterator[None]:
        try:
            yield
        except paramiko.BadAuthenticationType as error:
            self.allowed = error.allowed_types
        except paramiko.AuthenticationException as error:
            if not self._transport.is_active():
                raise AuthenticationFailed.at(
                    self._resolved.name,
                    f"{self._resolved.name} ended the connection after {self._tried[-1]}: {error}",
                ) from None

    def _took(self, further: Sequence[str]) -> None:
        """A method may be one of several that are all asked for."""
        if further:
            self.allowed = further


class _Questions:
    """The far side's own questions: a password, a one-time code."""

    def __init__(self, resolved: Resolved, asker: Asker) -> None:
        self._asker = asker
        self._host = f"({resolved.user}@{resolved.hostname}) "
        self.count = 0
        self.unanswered = False

    def answer(
        self, title: str, instructions: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        said = "\n".join(words for words in (title, instructions) if words)
        answers = []
        for question, echo in prompts:
            self.count += 1
            words = f"{said}\n{self._host}{question}" if said else f"{self._host}{question}"
            reply = None if self.unanswered else self._asker.ask(words, secret=not echo)
            self.unanswered |= reply is None
            answers.append(reply or "")
        return answers


class _OwnAgent(AgentSSH):
    """The keys of the agent at a socket; none when nothing answers there."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._socket: socket.socket | None = None
        if path is None:
            return
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
            self._connect(self._socket)  # type: ignore[attr-defined] # the stubs lack it
        except (OSError, paramiko.SSHException):
            self.close()

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined] # the stubs lack it
        if self._socket is not None:
            self._socket.close()


@contextlib.contextmanager
def _agent(resolved: Resolved) -> Iterator[_OwnAgent]:
    agent = _OwnAgent(resolved.identity_agent)
    try:
        yield agent
    finally:
        agent.close()


def _keys(resolved: Resolved, agent: AgentSSH, asker: Asker) -> Iterator[tuple[str, paramiko.PKey]]:
    """With a name for messages: the agent's that files name, its others, files, encrypted files."""
    files = [path for path in resolved.identity_files if path.is_file() or _public(path)]
    named = {blob for path in files if (blob := _public(path))}
    held = {key.asbytes(): key for key in agent.get_keys()}
    yield from ((f"{key.name} of the agent", key) for blob, key in held.items() if blob in named)
    if not resolved.identities_only:
        others = (key for blob, key in held.items() if blob not in named)
        yield from ((f"{key.name} of the agent", key) for key in others)
    encrypted = []
    for path in files:
        if _public(path) in held:
            continue
        try:
            yield str(path), paramiko.PKey.from_path(path)
        except _ENCRYPTED:
            encrypted.append(path)
        except (OSError, ValueError, paramiko.SSHException, UnknownKeyType):
            continue  # ssh too goes on without a key that it cannot read
    for path in encrypted:
        if (key := _decrypted(path, asker)) is not None:
            yield str(path), key


def _decrypted(path: Path, asker: Asker) -> paramiko.PKey | None:
    for _ in range(TRIES):
        words = asker.ask(f"Enter passphrase for key '{path}': ", secret=True)
        if not words:
            return None
        try:
            return paramiko.PKey.from_path(path, words.encode())  # type: ignore[arg-type] # it takes bytes only
        except (ValueError, paramiko.SSHException):
            continue
    return None


def _public(path: Path) -> bytes | None:
    """The blob of `path.pub`: what the private key is without opening it."""
    try:
        words = path.with_name(f"{path.name}.pub").read_text().split()
        return PublicBlob.from_string(" ".join(words)).key_blob
    except (OSError, ValueError, IndexError):
        return None
