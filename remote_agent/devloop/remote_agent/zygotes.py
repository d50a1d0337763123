"""The pool of zygotes: which one fits a run, and which must go.

Owns their number and their keys. Knows nothing of commands and of what is learned.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .forker import Forker, ForkerFailed
from .signature import signature_of
from .zygote.wire import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Key", "ZygotePool", "session_free"]

MAX_ZYGOTES = 4
# A zygote that failed is not tried again for so long.
RETRY_AFTER_S = 60.0

_HOOK = Path(__file__).parent / "zygote" / "hook"
_SESSION_VARIABLE = re.compile(
    r"SHLVL|PWD|OLDPWD|_|TERM|COLORTERM|COLUMNS|LINES|WINDOWID|DISPLAY|WAYLAND_DISPLAY|LS_COLORS"
    r"|GPG_TTY|STY|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|WT_SESSION|PS1"
    # Read when a CUDA context is made, which no zygote has: runs on any GPU share one.
    r"|CUDA_VISIBLE_DEVICES"
    r"|(TMUX|SSH_|XDG_SESSION|DBUS_|VTE_|TERM_|KITTY_|ITERM_|ALACRITTY_|DEVLOOP_).*"
)


@dataclass(frozen=True, slots=True)
class Key:
    """Two runs of equal keys may share a zygote."""

    interpreter: bytes
    flags: tuple[bytes, ...]
    preload: tuple[str, ...]
    environment: bytes
    cwd: bytes
    workspace: bytes

    @classmethod
    def of(
        cls,
        interpreter: bytes,
        flags: tuple[bytes, ...],
        env: Mapping[str, bytes],
        cwd: bytes,
        workspace: bytes,
    ) -> Key:
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(session_free(env).items()):
            digest.update(b"%d,%d:" % (len(name), len(value)))
            digest.update(name.encode("utf-8", "surrogateescape") + value)
        return cls(interpreter, flags, (), digest.digest(), cwd, workspace)

    def with_preload(self, preload: tuple[str, ...]) -> Key:
        return replace(self, preload=preload)


def session_free(env: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without what differs from terminal to terminal and means nothing to an import."""
    return {name: value for name, value in env.items() if not _SESSION_VARIABLE.fullmatch(name)}


class ZygotePool:
    def __init__(
        self,
        configuration: Callable[[], dict[str, Any]],
        start: Callable[[list[bytes], dict[bytes, bytes], bytes], Forker] = Forker.start,
        hook: str = str(_HOOK),
        signature: Callable[[str], list[int]] = signature_of,
    ) -> None:
        """`configuration`: the level of containment, for each zygote's first message. The others
        differ in a container: how interpreters start, where they find the program, and what
        became of a file that they have imported."""
        self._configuration = configuration
        self._start_one = start
        self._hook = hook
        self._signature = signature
        self._zygotes: OrderedDict[Key, Forker] = OrderedDict()
        self._failures: dict[Key, tuple[float, ForkerFailed]] = {}
        self._all: set[Forker] = set()

    def ensure(self, key: Key, env: Mapping[str, bytes]) -> Forker:
        """The zygote of `key`, started if need be. Raises ForkerFailed when it failed lately."""
        zygote = self._zygotes.get(key)
        if zygote is not None and not self._is_fresh(zygote):
            self._zygotes.pop(key).retire()
            zygote = None
        if zygote is None:
            self._raise_recent_failure(key)
            zygote = self._zygotes[key] = self._start(key, env)
        self._zygotes.move_to_end(key)
        self._evict()
        return zygote

    def retire(self, workspace: bytes) -> None:
        """Those of a workspace start no more runs, and go when the runs of theirs have ended."""
        for key in [key for key in self._zygotes if key.workspace == workspace]:
            self._zygotes.pop(key).retire()

    def close(self) -> list[Forker]:
        """Ends every zygote and its runs; returns those whose processes are still ending."""
        ending = list(self._all)
        for zygote in ending:
            zygote.close()
        self._zygotes.clear()
        return ending

    @property
    def is_used(self) -> bool:
        return any(zygote.is_used for zygote in self._all)

    def watched_paths(self) -> list[str]:
        """What the freshness of the ready zygotes hangs on."""
        ready = [zygote for zygote in self._zygotes.values() if zygote.is_ready]
        return list({path for zygote in ready for path in zygote.loaded.result()["watched"]})

    def counts(self, workspace: bytes) -> tuple[int, int]:
        """Of a workspace: those that are ready, and those that are at their imports."""
        own = [z for key, z in self._zygotes.items() if key.workspace == workspace and z.is_alive]
        ready = sum(zygote.is_ready and not zygote.stale for zygote in own)
        return ready, sum(not zygote.loaded.done() for zygote in own)

    def memory_bytes(self) -> int:
        """Of all zygotes, as they measured it after their imports."""
        ready = [zygote for zygote in self._all if zygote.is_ready]
        return sum(zygote.loaded.result()["rss_bytes"] for zygote in ready)

    def _start(self, key: Key, env: Mapping[str, bytes]) -> Forker:
        try:
            zygote = self._start_one(_command(key), _environment(env, self._hook), key.cwd)
        except ForkerFailed as failure:
            self._failures[key] = (time.monotonic(), failure)
            raise
        zygote.on_gone = lambda: self._on_gone(key, zygote)
        self._all.add(zygote)
        zygote.configure(
            {
                **self._configuration(),
                "preload": key.preload,
                "workspace": text_of(key.workspace),
            }
        )
        return zygote

    def _on_gone(self, key: Key, zygote: Forker) -> None:
        self._all.discard(zygote)
        if self._zygotes.get(key) is zygote:
            del self._zygotes[key]
        failure = zygote.loaded.exception()
        if isinstance(failure, ForkerFailed):
            self._failures[key] = (time.monotonic(), failure)

    def _raise_recent_failure(self, key: Key) -> None:
        failed_at, failure = self._failures.get(key, (0.0, None))
        if failure is not None and time.monotonic() - failed_at < RETRY_AFTER_S:
            raise failure
        self._failures.pop(key, None)

    def _is_fresh(self, zygote: Forker) -> bool:
        if not zygote.is_alive or zygote.stale:
            return False
        if not zygote.is_ready:
            return True
        watched: dict[str, list[int]] = zygote.loaded.result()["watched"]
        return all(self._signature(path) == stat for path, stat in watched.items())

    def _evict(self) -> None:
        while len(self._zygotes) > MAX_ZYGOTES:
            _, oldest = self._zygotes.popitem(last=False)
            oldest.retire()


def _command(key: Key) -> list[bytes]:
    """The module's name is never looked for: the hook has taken over by then."""
    return [key.interpreter, *key.flags, b"-m", b"devloop-zygote"]


def _environment(env: Mapping[str, bytes], hook_folder: str) -> dict[bytes, bytes]:
    """The hook finds the socket and the user's PYTHONPATH in DEVLOOP_ZYGOTE, and restores them."""
    path = env.get("PYTHONPATH")
    hook = hook_folder.encode("utf-8", "surrogateescape")
    names = {name.encode("utf-8", "surrogateescape"): v for name, v in session_free(env).items()}
    return {
        **names,
        b"PYTHONPATH": hook + (b":" + path if path else b""),
        b"DEVLOOP_ZYGOTE": b"{fd}:%d:%b" % (path is not None, path or b""),
    }
