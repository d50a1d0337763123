"""What a workspace remembers between agents: state.json, always replaced as a whole.

    {"version": 1, "name": …, "current": digest or null, "pending": [digest, …]}

Digests are in hex. Knows nothing of files and trees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WorkspaceBroken", "WorkspaceState", "encode_state", "read_state"]

STATE_VERSION = 1


class WorkspaceBroken(DevloopError):
    """A workspace's own files cannot be used."""

    hint = "`devloop doctor` shows where it is; removing that folder makes devloop start it anew"


@dataclass(frozen=True, slots=True)
class WorkspaceState:
    """`pending`: the trees of transitions that were begun, and not finished, since `current`."""

    name: str
    current: Digest | None = None
    pending: tuple[Digest, ...] = ()

    @property
    def settled(self) -> Digest | None:
        """The tree that files are of; None before the first transition, or amid one."""
        return None if self.pending else self.current


def read_state(path: Path) -> WorkspaceState | None:
    """None when there is none, or only what a power cut left of one.

    Raises WorkspaceBroken when it cannot be read, or is of another version.
    """
    try:
        data = json.loads(path.read_bytes())
        version = data["version"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkspaceBroken(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        return None
    if version != STATE_VERSION:
        raise WorkspaceBroken(f"{path} is of version {version}")
    try:
        return _decode(data)
    except (ValueError, KeyError, TypeError):
        return None


def _decode(data: dict[str, Any]) -> WorkspaceState:
    return WorkspaceState(
        name=data["name"],
        current=Digest.fromhex(data["current"]) if data["current"] else None,
        pending=tuple(Digest.fromhex(digest) for digest in data["pending"]),
    )


def encode_state(state: WorkspaceState) -> bytes:
    data = {
        "version": STATE_VERSION,
        "name": state.name,
        "current": state.current.hex() if state.current else None,
        "pending": [digest.hex() for digest in state.pending],
    }
    return json.dumps(data).encode()
