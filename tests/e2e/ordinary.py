"""A box whose agent runs as an ordinary user of this machine, for tests that run as root.

The user exists in a mount namespace alone, which has an /etc and a /dev/fuse of its own: nothing of
the machine is changed, and all of it is gone with the process that holds the namespace.

    with ordinary_box(ranges=True) as box: box.exec(box.project(), "id")
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .box import Box, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OrdinaryBox", "User", "ordinary_box", "ordinary_user", "skip_unless_possible"]

ROOT = Path(__file__).parents[2]
NAME = "devloop-test"

# An empty folder; the user's home and number; the first of his ids, or nothing; the mode of
# /dev/fuse; folders that he is to reach, whoever may enter those above. Ends with stdin.
_HOLD = """
own=$1 home=$2 uid=$3 first=$4 mode=$5; shift 5
mount -t tmpfs -o mode=755 ordinary "$own"
mkdir "$own/upper" "$own/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$own/upper,workdir=$own/work" ordinary /etc
echo "NAME:x:$uid:$uid::$home:/bin/sh" >>/etc/passwd
echo "NAME:x:$uid:" >>/etc/group
rm -f /etc/subuid /etc/subgid
[ -z "$first" ] || echo "NAME:$first:65536" | tee /etc/subuid >/etc/subgid
if [ -e /dev/fuse ]; then
    mknod -m "$mode" "$own/fuse" c 10 229
    mount --bind "$own/fuse" /dev/fuse
fi
number=0
for folder; do
    number=$((number + 1))
    mkdir "$own/$number"
    mount --bind "$folder" "$own/$number"
done
for folder; do
    above=$folder
    while [ "$above" != / ]; do
        case $(stat -c %a "$above" 2>/dev/null) in
            *[0246]) mount -t tmpfs -o mode=755 ordinary "$above" ;;
        esac
        above=$(dirname "$above")
    done
done
number=0
for folder; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --move "$own/$number" "$folder"
done
echo ready
read -r _
""".replace("NAME", NAME)


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    first_id: int  # of those that he may use in a namespace; 0: he has none
    holder: int  # the process whose mount namespace he exists in

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command: it is run by him, in the folder where it was typed."""
        enter = f"nsenter --mount --target {self.holder}"
        become = f"setpriv --reuid {self.uid} --regid {self.uid} --clear-groups"
        # In another mount namespace a process begins at its root.
        inner = 'cd "$0" && exec "$@"'
        return ("sh", "-c", f'exec {enter} {become} sh -c \'{inner}\' "$PWD" "$@"', "sh")

    def own(self, folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)


@dataclass(slots=True)
class OrdinaryBox(Box):
    user: User = User(0, 0, 0)

    def project(self, name: str = "project", **files: str) -> Path:
        # Not `super()`: a dataclass with slots is another class than the one it was written as.
        directory = Box.project(self, name, **files)
        self.user.own(directory.parent)
        return directory

    def image(self, layout: Path) -> str:
        """The reference of a layout that he may read."""
        there = Path(tempfile.mkdtemp(prefix="i-", dir=self.base)) / "layout"
        shutil.copytree(layout, there)
        self.user.own(there.parent)
        return f"oci:{there}:latest"


def skip_unless_possible(*, ranges: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs overlayfs")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs a user namespace")
    for command in ("crun", *(["newuidmap"] if ranges else [])):
        if shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"needs {command}")


@contextlib.contextmanager
def ordinary_user(home: Path, *, ranges: bool, fuse: bool = True) -> Iterator[User]:
    """`ranges`: has he ids in /etc/subuid; `fuse`: may he open /dev/fuse."""
    uid = 20_000 + os.getpid() % 20_000
    first_id = uid << 16 if ranges else 0
    own = Path(tempfile.mkdtemp(prefix="dl-"))
    own.chmod(0o755)
    reached = dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT)))
    words = [str(own), str(home), str(uid), str(first_id or ""), "666" if fuse else "600"]
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-euc", _HOLD, "sh", *words, *reached],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield User(uid, first_id, holder.pid)
    finally:
        holder.communicate()
        own.rmdir()


@contextlib.contextmanager
def ordinary_box(*, ranges: bool, fuse: bool = True) -> Iterator[OrdinaryBox]:
    skip_unless_possible(ranges=ranges)
    base = Path(tempfile.mkdtemp(prefix="dl-")).resolve()
    try:
        home = base / "home"
        home.mkdir()
        with ordinary_user(home, ranges=ranges, fuse=fuse) as user:
            user.own(base)
            env = clean_environment(base) | {"HOME": str(home)}
            box = OrdinaryBox(base, env, prefix=user.prefix, user=user)
            try:
                yield box
            finally:
                box.close()
    finally:
        shutil.rmtree(base, ignore_errors=True)
