"""The console script: parse, carry out one verb, report an error. Knows no verb."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from devloop.cafs.errors import DevloopError

from .errors import report_error
from .parser import VERBS, parse_args

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

__all__ = ["console", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    color = False
    ensure_standard_streams()
    try:
        args = parse_args(sys.argv[1:] if argv is None else argv)
        color = wants_color(args.color)
        code = _function(args.verb)(args)
        sys.stdout.flush()
    except DevloopError as error:
        report_error(error, sys.stderr, color=color)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is left to say, at interpreter exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the boundary: no traceback reaches a user
        failure = _as_devloop_error(error)
        report_error(failure, sys.stderr, color=color)
        return failure.exit_code
    return code


def _as_devloop_error(error: Exception) -> DevloopError:
    """The first of devloop's own errors in a group; anything else is worded as one."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, DevloopError):
        return error
    if os.environ.get("DEVLOOP_TRACEBACK"):
        raise error
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    name = getattr(error, "filename", None)
    where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else ""
    return DevloopError(
        f"{where}{words or type(error).__name__}",
        hint="nobody foresaw this; DEVLOOP_TRACEBACK=1 shows where it happened",
    )


def ensure_standard_streams() -> None:
    """A closed one would become the descriptor of a socket, and output would be written there."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - stays open


def console() -> NoReturn:
    """The console script: leaves without finalising the interpreter, which costs 25 ms an `exec`.

    Nothing is lost: every verb has closed its connection and restored the terminal by then.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone, a closed stream
            stream.flush()
    os._exit(code)


def _function(name: str) -> Callable[[Namespace], int]:
    """The verb's own, imported without collections of garbage: imports make none."""
    verb = VERBS[name]
    gc.disable()
    function: Callable[[Namespace], int] = getattr(
        importlib.import_module(verb.module), verb.function
    )
    gc.freeze()
    gc.enable()
    return function


def wants_color(asked: bool | None) -> bool:
    """Flags beat NO_COLOR (https://no-color.org), which beats what the terminal can do."""
    if asked is not None:
        return asked
    return "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb" and sys.stderr.isatty()


if __name__ == "__main__":
    console()
