"""The program that installs the agent on the box. Stands alone: its text is sent there and run.

    python -I -S -c … ROOT BUILD < a tar of {manifest.json, *.whl}, the manifest first

ROOT/BUILD becomes a virtual environment, without pip and without what Debian splits from Python:

    bin/python   → the interpreter      bin/bridge.py → the bridge
    lib/pythonX.Y/site-packages         what the wheels hold
    pyvenv.cfg   build                  the name of the build; `server.py` tells it to bridges
    in-use                              locked by each agent that runs from here

It is made beside its place and renamed there, so that it is whole or not there. The answer is one
line on stdout, `devloop-here JSON`: {"installed": bool} or {"error": KIND, "message": …}.
"""

# ruff: noqa: PTH123 # pathlib is of no use to a program that is sent and run once

import errno
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

MARKER = "devloop-here"
KEPT_BUILDS = 2
STALE_S = 3600.0
PROBE = "import devloop.remote_agent.server"


class Refused(Exception):
    """`kind` is known to the client."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(root: str, build: str) -> None:
    try:
        answer: dict[str, object] = {"installed": install(root, build)}
    except Refused as error:
        answer = {"error": error.kind, "message": str(error)}
    except OSError as error:
        answer = {"error": kind_of(error), "message": f"{error.filename or root}: {error.strerror}"}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        answer = {"error": "broken", "message": f"what arrived is incomplete: {error}"}
    sys.stdout.write(f"{MARKER} {json.dumps(answer)}\n")
    sys.stdout.flush()


def kind_of(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return "unwritable"
    return "broken"


def install(root: str, build: str) -> bool:
    """False when it was there."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    with open(os.path.join(root, ".lock"), "wb") as lock:
        alone = takes(lock)
        target = os.path.join(root, build)
        if is_whole(target):
            return False
        made = os.path.join(root, f".new-{build}-{os.getpid()}")
        remove_left(root, alone)
        try:
            make(made, root, build)
            put_in_place(made, target)
            remove_old(root, build)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        remove_left(root, alone)
        return True


def takes(lock: io.BufferedWriter) -> bool:
    """False on a file system without locks, where the rename alone decides."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def is_whole(target: str) -> bool:
    """Whole when it was renamed here; somebody may have deleted parts of it since."""
    return runs(target, PROBE) == ""


def make(made: str, root: str, build: str) -> None:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        manifest = json.loads(read_member(archive, archive.next()))
        check_room(root, int(manifest["unpacked_bytes"]))
        library = "python{}.{}".format(*sys.version_info[:2])
        packages = os.path.join(made, "lib", library, "site-packages")
        os.makedirs(packages, mode=0o700)
        for name in manifest["wheels"]:
            member = archive.next()
            if member is None or member.name != name:
                raise EOFError(f"{name} is missing")
            unpack_wheel(read_member(archive, member), packages)
    furnish(made, packages, build)
    said = runs(made, PROBE)
    if said != "":
        raise Refused("import", said)


def read_member(archive: tarfile.TarFile, member: "tarfile.TarInfo | None") -> bytes:
    file = archive.extractfile(member) if member is not None else None
    if file is None:
        raise EOFError("the archive ends early")
    return file.read()


def check_room(root: str, need_bytes: int) -> None:
    disk = os.statvfs(root)
    free_bytes = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free_bytes < need_bytes:
        raise Refused("full", f"{root}: {need_bytes:,} bytes needed, {free_bytes:,} free")
    if disk.f_flag & os.ST_NOEXEC:
        raise Refused("noexec", f"{root} lies on a file system that is mounted noexec")


def unpack_wheel(data: bytes, packages: str) -> None:
    """Files of the schemes purelib and platlib; scripts and headers are of no use here."""
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        for info in wheel.infolist():
            parts = info.filename.split("/")
            if parts[0].endswith(".data"):
                if parts[1:2] not in (["purelib"], ["platlib"]):
                    continue
                parts = parts[2:]
            if info.is_dir():
                continue
            if "" in parts or ".." in parts or "." in parts:
                raise ValueError(f"{info.filename!r} in a wheel")
            path = os.path.join(packages, *parts)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(wheel.read(info))


def furnish(made: str, packages: str, build: str) -> None:
    interpreter = os.path.realpath(sys.executable)
    os.mkdir(os.path.join(made, "bin"))
    os.symlink(interpreter, os.path.join(made, "bin", "python"))
    bridge = os.path.join(packages, "devloop", "remote_agent", "bridge.py")
    os.symlink(
        os.path.relpath(bridge, os.path.join(made, "bin")), os.path.join(made, "bin", "bridge.py")
    )
    config = (
        f"home = {os.path.dirname(interpreter)}\n"
        "include-system-site-packages = false\n"
        f"version = {'.'.join(map(str, sys.version_info[:3]))}\n"
    )
    for name, text in {"pyvenv.cfg": config, "build": f"{build}\n", "in-use": ""}.items():
        with open(os.path.join(made, name), "w") as file:
            file.write(text)


def runs(environment: str, program: str) -> str:
    """The last line of what went wrong, "" when nothing did. Leaves bytecode for the next start."""
    python = os.path.join(environment, "bin", "python")
    try:
        done = subprocess.run(
            [python, "-I", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        return error.strerror or "it cannot be run"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="backslashreplace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def put_in_place(made: str, target: str) -> None:
    sync_file_system(made)
    if os.path.lexists(target):
        set_aside(target)
    os.rename(made, target)
    fd = os.open(os.path.dirname(target), os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def set_aside(path: str) -> None:
    """Out of sight at once; it is deleted later, which takes its time."""
    os.rename(path, os.path.join(os.path.dirname(path), f".old-{os.getpid()}-{time.time_ns()}"))


def sync_file_system(directory: str) -> None:
    """One call for all files of that disk; a thousand single ones take seconds."""
    import ctypes

    fd = os.open(directory, os.O_RDONLY)
    try:
        failed = ctypes.CDLL(None, use_errno=True).syncfs(fd)
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    except AttributeError:
        os.sync()
    finally:
        os.close(fd)


def remove_left(root: str, alone: bool) -> None:
    """What interrupted installations left, and what was replaced.

    Another one may be at it unless this one is `alone`: what is young stays then.
    """
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if name.startswith((".new-", ".old-")) and (alone or not is_young(path)):
            shutil.rmtree(path, ignore_errors=True)


def is_young(path: str) -> bool:
    return time.time() - os.lstat(path).st_mtime < STALE_S


def remove_old(root: str, build: str) -> None:
    """The newest builds stay, and those that an agent runs from."""
    others = [name for name in os.listdir(root) if not name.startswith(".") and name != build]
    others.sort(key=lambda name: os.lstat(os.path.join(root, name)).st_mtime, reverse=True)
    for name in others[KEPT_BUILDS - 1 :]:
        path = os.path.join(root, name)
        if not is_in_use(path):
            set_aside(path)


def is_in_use(path: str) -> bool:
    try:
        with open(os.path.join(path, "in-use"), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


if __name__ == "__main__":
    main(*sys.argv[1:3])
