"""`python -m devloop.remote_agent serve`: what a client starts on the box."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from devloop.cafs import dirs
from devloop.cafs.errors import DevloopError

from .agent import STORE_LIMIT_BYTES
from .server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="devloop-agent")
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving = verbs.add_parser("serve", help="serve this user's agent on its Unix socket")
    serving.add_argument("--idle-timeout", type=float, default=1800.0, metavar="SECONDS")
    serving.add_argument("--store-limit", type=int, default=STORE_LIMIT_BYTES, metavar="BYTES")
    serving.add_argument("--ready-fd", type=int, metavar="FD")
    args = parser.parse_args()
    try:
        os.chdir("/")
        asyncio.run(
            serve(
                *(dirs.state_dir(), dirs.socket_path(), args.idle_timeout, args.ready_fd),
                store_limit_bytes=args.store_limit,
            )
        )
    except DevloopError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
