"""`python -m devloop.cafs.fuse`: `request` has what it is told, and `events` what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from devloop.cafs.errors import DevloopError

from .check import check_fuse
from .events import Events
from .request import Ahead, Announced, Request

_MOST_REQUEST_BYTES = 1 << 20


def main() -> int:
    # A terminal's Ctrl-C is meant for the programs that read the mount.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    events = Events(_own_stdout())
    try:
        _serve(events)
    except DevloopError as error:
        events.tell("error", message=str(error), hint=error.hint)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the top of a process, which reports)
        events.tell("error", message=f"the FUSE server: {error!r}", hint="")
        return 1
    return 0


def _serve(events: Events) -> None:
    line = _next_line()
    ahead = Ahead.decode(line)
    check_fuse()
    from .server import Upstream, read_image, serve

    upstream = shown = None
    if ahead is not None:
        upstream = Upstream(ahead.tiers, ahead.deadline_s, events)
        upstream.connect()
        line = _next_line()
    if announced := Announced.decode(line):
        with contextlib.suppress(DevloopError):  # it matters only if it is asked for
            shown = read_image(*announced)
        line = _next_line()
    if not line and ahead is not None:
        return  # there was no request after all
    request = Request.decode(line)
    if upstream is None or upstream.addresses != request.tiers:
        upstream = Upstream(request.tiers, request.deadline_s, events)
    if shown is None or shown.digest != request.image:
        shown = read_image(request.store, request.image)
    serve(request, events, upstream, shown)


def _own_stdout() -> int:
    """Nothing else that may print gets between the events."""
    fd = os.dup(1)
    os.dup2(2, 1)
    return fd


def _next_line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _MOST_REQUEST_BYTES:
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


def leave(status: int) -> NoReturn:
    """Threads that wait for a tier which never answers are left behind."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
