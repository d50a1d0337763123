"""Somebody to ask, in tests: answers in order, and remembers what was asked."""

from __future__ import annotations

__all__ = ["Answers"]


class Answers:
    """`hosts`: what is said to an unknown host key. None when the answers are used up."""

    owns_terminal = False

    def __init__(self, *answers: str, hosts: str | None = None) -> None:
        self._answers = list(answers)
        self._hosts = hosts
        self.asked: list[str] = []
        self.fingerprints: list[str] = []

    async def ask(self, question: str, *, secret: bool) -> str | None:
        self.asked.append(question)
        return self._answers.pop(0) if self._answers else None

    async def confirm_host(self, host: str, key_type: str, fingerprint: str) -> str | None:
        self.fingerprints.append(f"{host} {key_type} {fingerprint}")
        return fingerprint if self._hosts == "fingerprint" else self._hosts
