"""What the spawner is asked for, from what a client asked for.

Owns a run's environment variables and its folder. Refuses to know how processes are born.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .spawn import StartRequest

if TYPE_CHECKING:
    from pathlib import Path

    from .run import RunSpec
    from .stdio import Stdio

__all__ = ["start_request"]


def start_request(
    spec: RunSpec,
    number: int,
    cwd: Path,
    local_root: bytes | None,
    stdio: Stdio | None = None,
) -> StartRequest:
    """`cwd` is the workspace's folder; without `stdio`, for preparing a start only."""
    is_clean = spec.env_is_whole or spec.container is not None
    env = {} if is_clean else {os.fsdecode(k): v for k, v in os.environb.items()}
    env |= spec.env
    env["DEVLOOP_RUN"] = b"%d" % number
    # The shell's own PWD names a folder on the laptop.
    env["PWD"] = os.fsencode(cwd / os.fsdecode(spec.cwd))
    env.pop("OLDPWD", None)
    return StartRequest(
        argv=spec.argv,
        env=env,
        cwd=env["PWD"],
        stdin=stdio.child_stdin if stdio is not None else -1,
        stdout=stdio.child_stdout if stdio is not None else -1,
        stderr=stdio.child_stderr if stdio is not None else -1,
        tty=spec.tty,
        warm=spec.warm,
        preload=spec.preload,
        workspace=os.fsencode(cwd),
        local_root=local_root,
        container=spec.container,
        login=spec.login,
    )
