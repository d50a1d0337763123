"""Brings our own build of the agent to a box that lacks it. Only a first connection pays for this.

What is decided lies in `facts.py`, what is sent in `wheels.py`, what happens there in `unpack.py`.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .boxerrors import (
    BoxFull,
    BoxUnwritable,
    InstallFailed,
    NoExecution,
    NoPython,
    NotOurWords,
)
from .facts import (
    MARKER,
    Facts,
    bridge_command,
    choose_python,
    parse_facts,
    printable,
    unpack_command,
    uv_command,
)
from .wheels import Wheel, fetch_wheels, own_wheel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .boxerrors import BoxError
    from .facts import BoxPython
    from .link import Completed, Link

__all__ = ["InstallProgress", "ask_facts", "install"]

PIECE_BYTES = 1 << 17
UNPACK_TIMEOUT_S = 900.0
UV_TIMEOUT_S = 600.0
FACTS_TIMEOUT_S = 60.0
# Bytecode, file system blocks, and something left for the agent's own log.
ROOM_FACTOR = 1.5

_ERRORS: dict[str, type[BoxError]] = {
    "full": BoxFull,
    "unwritable": BoxUnwritable,
    "noexec": NoExecution,
}


class InstallProgress(NamedTuple):
    """What goes on; the bytes are those of "sending"."""

    phase: Literal["fetching", "python", "sending", "unpacking"]
    sent_bytes: int = 0
    total_bytes: int = 0


async def install(
    link: Link,
    host: str,
    build: str,
    facts: Facts,
    on_progress: Callable[[InstallProgress], None],
) -> bool:
    """Whether it was missing; it is there now. Raises BoxErrors, SshErrors."""
    chosen = choose_python(facts, host)
    if chosen is None:
        on_progress(InstallProgress("python"))
        chosen = await _python_by_uv(link, host, facts.uv)
    on_progress(InstallProgress("fetching"))
    wheels = [own_wheel(), *await fetch_wheels(chosen)]
    payload = _payload(wheels)
    done = await link.run(
        unpack_command(chosen.path, facts.root, build),
        stdin=_pieces(payload, on_progress),
        timeout_s=UNPACK_TIMEOUT_S,
    )
    return _was_missing(host, done)


async def _python_by_uv(link: Link, host: str, uv: str) -> BoxPython:
    """Facts about the Python that uv brought. Raises NoPython."""
    done = await link.run(uv_command(uv), timeout_s=UV_TIMEOUT_S)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.exit_code == 0 and lines:
        facts = await ask_facts(link, lines[-1])
        if facts is not None and facts.pythons:
            return facts.pythons[0]
    raise NoPython(
        f"{host} has no Python 3.11, and uv there brings none: {printable(done.stderr)}",
        hint=f"`{uv} python install 3.12` there says more",
    )


async def ask_facts(link: Link, python: str) -> Facts | None:
    """Whatever is installed. None when the box says something else."""
    command = bridge_command("no-such-build", "start", python, ())
    done = await link.run(command, timeout_s=FACTS_TIMEOUT_S)
    _, found, rest = done.stdout.partition(f"{MARKER} facts\n".encode())
    return parse_facts(rest.decode(errors="surrogateescape").splitlines()) if found else None


def _payload(wheels: list[Wheel]) -> bytes:
    """The program with its length, then what it reads."""
    program = Path(__file__).with_name("unpack.py").read_bytes()
    buffer = io.BytesIO()
    buffer.write(b"%d\n" % len(program) + program)
    manifest = {
        "wheels": [wheel.name for wheel in wheels],
        "unpacked_bytes": int(sum(wheel.unpacked_bytes for wheel in wheels) * ROOM_FACTOR),
    }
    with tarfile.open(fileobj=buffer, mode="w|") as archive:
        for name, content in [("manifest.json", json.dumps(manifest).encode()), *wheels]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def _pieces(
    payload: bytes, on_progress: Callable[[InstallProgress], None]
) -> AsyncIterator[bytes]:
    view = memoryview(payload)
    for start in range(0, len(view), PIECE_BYTES):
        on_progress(InstallProgress("sending", start, len(view)))
        yield bytes(view[start : start + PIECE_BYTES])
    on_progress(InstallProgress("unpacking", len(view), len(view)))


def _was_missing(host: str, done: Completed) -> bool:
    _, found, rest = done.stdout.rpartition(f"{MARKER} ".encode())
    if not found:
        said = printable(done.stdout, done.stderr) or "nothing"
        raise InstallFailed(f"installing on {host} ended with {done.exit_code}, saying {said}")
    try:
        answer = json.loads(rest)
    except ValueError:
        raise NotOurWords(f"{host} answered: {printable(rest)}") from None
    if "error" not in answer:
        return bool(answer["installed"])
    kind, message = answer["error"], printable(answer["message"].encode())
    if kind == "import" and "failed to map segment" in message:
        kind = "noexec"
    raise _ERRORS.get(kind, InstallFailed)(f"cannot install the agent on {host}: {message}")
