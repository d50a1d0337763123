"""Interactive shells: runs in a workspace as it is, which nothing waits for.

A shell is no program that needs one version of the files for its whole life, so it is pinned to
none: it starts beside whatever runs, and transitions take place under it. `ps` lists it while it
is open, by a number like any run's; when it has ended, nothing of it is kept.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

from devloop.cafs.digest import Digest

if TYPE_CHECKING:
    from .agent import Project
    from .run import Run, RunSpec

__all__ = ["NO_SHELLS", "PLAIN_SHELL", "login_shell", "start_shell"]

NO_TREE = Digest(bytes(32))
PLAIN_SHELL = "/bin/sh"
NO_SHELLS = ("nologin", "false", "true", "sync")


def login_shell() -> bytes:
    """The program that the password database gives this user; else a plain one."""
    try:
        path = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:  # a container's user need not have an entry
        return os.fsencode(PLAIN_SHELL)
    usable = os.access(path, os.X_OK) and os.path.basename(path) not in NO_SHELLS
    return os.fsencode(path if usable else PLAIN_SHELL)


async def start_shell(project: Project, spec: RunSpec) -> Run:
    """Without the project's lock: a sync may be under way, and goes on."""
    if spec.container is None:  # in an image only its own passwd can say
        spec = replace(spec, env={**spec.env, "SHELL": login_shell()})
    spec = replace(spec, shell=True, warm=False)
    workspace = project.workspace
    tree = workspace.current or NO_TREE
    return await project.runs.start(spec, tree, workspace.files, project.local_root)
