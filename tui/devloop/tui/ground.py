"""What the screen is given of its project: how a session is opened, and what to call.

The seam to the command line, which knows configuration and verbs; the screen knows neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from devloop.cafs.errors import DevloopError
    from devloop.sync.loop import Loop
    from devloop.sync.progress import Progress
    from devloop.sync.session import Session

__all__ = ["Found", "Ground", "Opened", "Screenful"]


class Opened(NamedTuple):
    """A session, and the loop on it that is yet to be run."""

    session: Session
    loop: Loop


class Found(NamedTuple):
    """In a project that nobody has configured."""

    command: str  # what it seems to be run by; empty: nobody can tell
    words: tuple[str, ...]  # what else there is, and what becomes of it, a line each


class Screenful(NamedTuple):
    """Of the configuration. `project` and `root` stay; the rest is asked for when it changes."""

    target: str
    project: str  # its folder's name
    root: str
    image: str = ""  # that runs see; empty: the box's own files
    theme: str = ""  # empty: what suits the terminal
    keys: Mapping[str, str] = {}  # the name of a command to its keys, separated by blanks


class Ground(Protocol):
    """One project, for one screen."""

    @property
    def facts(self) -> Screenful: ...

    @property
    def progress(self) -> Progress: ...

    @property
    def command(self) -> str:
        """What runs, as one would type it; empty: nothing is configured."""

    def look_around(self) -> Found:
        """What the project's folder says."""

    def set_command(self, command: str) -> None:
        """Runs this from now on, and remembers it in the project's configuration.

        Raises DevloopErrors: it does not parse, the file cannot be written.
        """

    def opened(self, *, may_ask: bool) -> AbstractAsyncContextManager[Opened]:
        """`may_ask`: `ssh` has the terminal to ask the user. Raises DevloopErrors."""

    def wants_to_ask(self, error: DevloopError) -> bool:
        """Whether opening failed since nobody was asked."""

    def verb(self, *words: str) -> Sequence[str]:
        """The argv of another devloop of this project: `verb("shell")`."""
