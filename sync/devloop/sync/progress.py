"""How far a session has come with what it does now, for front ends to look at.

Written by what does the work, on whatever thread that is; read by front ends at a pace of their
own. Nothing here decides anything, and nobody waits for a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ImagePhase", "InstallPhase", "Progress", "Step"]

Step: TypeAlias = Literal["connect", "install", "image", "scan", "upload", "apply"]
InstallPhase: TypeAlias = Literal["fetching", "python", "sending", "unpacking"]
ImagePhase: TypeAlias = Literal["resolving", "fetching", "mounting"]

PAUSE_S = 0.2  # work that goes on within it is the same work


class Progress:
    """`step` is what takes the time now, None for nothing; counts are those of its latest time.

    Sizes are those of the files' contents, however few bytes they take on their way.
    """

    def __init__(self) -> None:
        self.began_s = 0.0  # monotonic, as the other times: since when there was something to do
        self.scanned_files = 0
        self.upload_began_s = 0.0
        self.sent_files = 0
        self.sent_bytes = 0
        self.total_files = 0
        self.total_bytes = 0
        self.install_phase: InstallPhase | None = None
        self.image_phase: ImagePhase = "resolving"
        self.image_bytes = 0
        self.image_total_bytes = 0  # 0: not known yet
        self.notes: list[str] = []  # of how the image came, for a line each
        self._steps: list[Step] = []  # under way, in the order in which they were begun
        self._holds = 0
        self._ended_s = -PAUSE_S
        self._busy = asyncio.Event()

    @property
    def step(self) -> Step | None:
        if self.install_phase is not None:
            return "install"  # whoever may have been asked something has answered by then
        return self._steps[-1] if self._steps and not self._holds else None

    async def wait_until_busy(self) -> None:
        await self._busy.wait()

    @contextlib.contextmanager
    def during(self, step: Step) -> Iterator[None]:
        """Steps may overlap: the one that was begun last is the one that is told. Call it on the
        event loop's thread."""
        now = time.monotonic()
        if not self._steps and now - self._ended_s > PAUSE_S:
            self.began_s = now
        self._steps.append(step)
        self._tell()
        try:
            yield
        finally:
            self._steps.remove(step)
            if not self._steps:
                self._ended_s = time.monotonic()
            self._tell()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No step is told meanwhile: the terminal is somebody's who asks the user something."""
        self._holds += 1
        self._tell()
        try:
            yield
        finally:
            self._holds -= 1
            self._tell()

    def installing(
        self, phase: InstallPhase | None, sent_bytes: int = 0, total_bytes: int = 0
    ) -> None:
        """Of the agent, on a box that lacks it; None: it is there."""
        if self.install_phase is None:
            if phase is None:
                return
            self.began_s = time.monotonic()
        self.install_phase = phase
        self.sent_bytes, self.total_bytes = sent_bytes, total_bytes
        self._tell()

    def take_notes(self) -> list[str]:
        """Those that nobody has taken yet."""
        notes, self.notes = self.notes, []
        return notes

    def image(self, phase: ImagePhase, done_bytes: int, total_bytes: int) -> None:
        """Of the step `image`, so far."""
        self.image_phase = phase
        self.image_bytes, self.image_total_bytes = done_bytes, total_bytes

    def _tell(self) -> None:
        if self.step is None:
            self._busy.clear()
        else:
            self._busy.set()

    @contextlib.contextmanager
    def uploading(
        self, files: int, size_bytes: int, sent: tuple[int, int] = (0, 0)
    ) -> Iterator[None]:
        """`sent`: files and bytes that went before."""
        self.upload_began_s = time.monotonic()
        self.sent(*sent)
        self.total_files, self.total_bytes = files, size_bytes
        with self.during("upload"):
            yield

    def sent(self, files: int, size_bytes: int) -> None:
        """Of the upload under way, so far."""
        self.sent_files, self.sent_bytes = files, size_bytes
