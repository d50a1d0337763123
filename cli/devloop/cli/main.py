"""The console script: parse, carry out one verb, report an error. Knows no verb."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from devloop.cafs.errors import DevloopError

from .errors import report_error
from .parser import VERBS, parse_args

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    color = False
    try:
        args = parse_args(sys.argv[1:] if argv is None else argv)
        color = wants_color(args.color)
        verb = VERBS[args.verb]
        function = getattr(importlib.import_module(verb.module), verb.function)
        code: int = function(args)
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
    return code


def wants_color(asked: bool | None) -> bool:
    """Flags beat NO_COLOR (https://no-color.org), which beats what the terminal can do."""
    if asked is not None:
        return asked
    return "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb" and sys.stderr.isatty()


if __name__ == "__main__":
    raise SystemExit(main())
