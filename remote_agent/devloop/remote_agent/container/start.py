"""Entry of a keeper: `python -I -S start.py FD`, with DEVLOOP_SOURCES for sys.path."""

import os
import sys

if __name__ == "__main__":
    sys.path[:] = os.environ.pop("DEVLOOP_SOURCES").split(os.pathsep)
    from devloop.remote_agent.container.keeper import main

    main(int(sys.argv[1]))
