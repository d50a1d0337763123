"""`python -m devloop.cafs.fuse`: `request` has what it is told, and `events` what it says."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from devloop.cafs.errors import DevloopError

from .check import check_fuse
from .events import Events


def main() -> int:
    # A terminal's Ctrl-C is meant for the programs that read the mount.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = Events(_own_stdout())
    try:
        check_fuse()
        from .server import serve

        serve(events)
    except DevloopError as error:
        events.tell("error", message=str(error), hint=error.hint)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the top of a process, which reports)
        events.tell("error", message=f"the FUSE server: {error!r}", hint="")
        return 1
    return 0


def _own_stdout() -> int:
    """Nothing else that may print gets between the events."""
    fd = os.dup(1)
    os.dup2(2, 1)
    return fd


def leave(status: int) -> NoReturn:
    """Threads that wait for a tier which never answers are left behind."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
