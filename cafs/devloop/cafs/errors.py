"""The one base of every error that devloop raises on purpose."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["DevloopError", "StoreError"]


class DevloopError(Exception):
    """An operation cannot go on. The message names the thing, the hint names the next step.

    `exit_code` is what the command line exits with when nothing catches the error.
    """

    exit_code: ClassVar[int] = 255
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class StoreError(DevloopError):
    """The blob store cannot do what was asked."""
