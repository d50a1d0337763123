"""What the box is asked to do, and what it answered, as words. Pure.

The login shell may be any: what it gets is `exec /bin/sh -c '…'`, without a single quote, a
backslash, an exclamation mark or a line break inside, since fish and csh read these their own way.
Start-up files may print before; what is ours begins with a marker that the command's own text does
not hold, in case it is echoed.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from .boxerrors import NoPython, PlatformUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MARKER",
    "BoxPython",
    "Facts",
    "bridge_command",
    "choose_python",
    "parse_facts",
    "platform_tags",
    "printable",
    "unpack_command",
    "uv_command",
]

MARKER = "devloop-here"
OLDEST = (3, 11)
UV_PYTHON = "3.12"
LAST_LINES = 3

_BRIDGE = """
r="${DEVLOOP_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/devloop}/versions"; own="$r/$1";
mode="$2"; py="$3"; shift 3;
go() { v="$1"; shift; if [ -x "$v/bin/python" ] && [ -f "$v/bin/bridge.py" ]; then
exec "$v/bin/python" -I -S "$v/bin/bridge.py" "$mode" "$@"; fi; }; go "$own" "$@";
case "$mode" in find|gone) for v in "$r"/*; do go "$v" "$@"; done;
echo "devloop""-here absent"; exit 0;; esac;
"""

# One line a Python: version, implementation, ABI flags, C library, path of the real executable.
_PYTHON = (
    "import os,sys,platform;"
    "print(*sys.version_info[:3],sys.implementation.name,sys.abiflags or 0,"
    "platform.libc_ver()[0] or 0,platform.libc_ver()[1] or 0,os.path.realpath(sys.executable))"
)

_FACTS = f"""
echo "devloop""-here facts"; echo "system $(uname -s)"; echo "machine $(uname -m)";
echo "root $r"; echo "ldd $(ldd --version 2>&1 | head -n 1)";
u=$(command -v uv || ls "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" 2>/dev/null | head -n 1);
echo "uv $u"; f=; if [ -n "$u" ]; then f=$("$u" python find ">=3.11" 2>/dev/null); fi;
for p in ${{py:-python3.14 python3.13 python3.12 python3.11 python3 $f}}; do
q=$(command -v "$p" 2>/dev/null) || continue;
echo "python $("$q" -I -S -c "{_PYTHON}" 2>/dev/null </dev/null)"; done;
echo end; exit 90
"""

_UNPACK = (
    'exec "$1" -I -S -c '
    '"import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))" "$2" "$3"'
)
_UV = f'"$1" python install {UV_PYTHON} >&2 && "$1" python find {UV_PYTHON}'


class BoxPython(NamedTuple):
    """`libc`: "glibc" or "musl", with its version."""

    path: str
    version: tuple[int, int, int]
    libc: str
    libc_version: tuple[int, int]
    machine: str

    @property
    def minor(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


class Facts(NamedTuple):
    """`root`: the folder of installed versions. `uv`: its path, "" without. Pythons, best first."""

    system: str
    machine: str
    root: str
    uv: str
    pythons: tuple[BoxPython, ...]


def bridge_command(build: str, mode: str, python: str, serve_words: Sequence[str]) -> str:
    """Becomes the bridge, or prints the facts and ends.

    `mode` is one of `bridge.py` in the box half; "find" and "gone" take any installed version.
    `python`: "" for whichever.
    """
    return _shell(_BRIDGE + _FACTS, build, mode, python, *serve_words)


def unpack_command(python: str, root: str, build: str) -> str:
    """Reads from stdin the length of a program in a line, the program, and what that reads."""
    return _shell(_UNPACK, python, root, build)


def uv_command(uv: str) -> str:
    """Brings a Python, and prints its path."""
    return _shell(_UV, uv)


def _shell(script: str, *words: str) -> str:
    quoted = " ".join(shlex.quote(word) for word in words)
    return f"exec /bin/sh -c '{' '.join(script.split())}' sh {quoted}"


def parse_facts(lines: Sequence[str]) -> Facts:
    """Those after the marker's line. What a line lacks is taken as unknown."""
    found: dict[str, str] = {}
    pythons: list[BoxPython] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "python":
            python = _parse_python(rest, found.get("machine", ""), "musl" in found.get("ldd", ""))
            if python is not None and python not in pythons:
                pythons.append(python)
        else:
            found[word] = rest.strip()
    return Facts(
        found.get("system", ""),
        found.get("machine", ""),
        found.get("root", ""),
        found.get("uv", ""),
        tuple(pythons),
    )


def _parse_python(words: str, machine: str, is_musl: bool) -> BoxPython | None:
    """None for what does not answer, and for what has no wheels: PyPy, free-threaded builds."""
    fields = words.split(" ", 7)
    if len(fields) != 8 or fields[3] != "cpython" or "t" in fields[4]:
        return None
    try:
        major, minor, micro = map(int, fields[:3])
        libc_version = [int(part) for part in fields[6].split(".")[:2]]
    except ValueError:
        return None
    if fields[5] == "glibc" and not is_musl and len(libc_version) == 2:
        libc, at = "glibc", (libc_version[0], libc_version[1])
    else:
        libc, at = "musl", (1, 2)
    return BoxPython(fields[7], (major, minor, micro), libc, at, machine)


def choose_python(facts: Facts, host: str) -> BoxPython | None:
    """The first that is new enough; None when `uv` can bring one.

    Raises PlatformUnsupported, NoPython.
    """
    if facts.system != "Linux":
        raise PlatformUnsupported(f"{host} runs {facts.system or 'something unknown'}, not Linux")
    for python in facts.pythons:
        if python.version >= OLDEST:
            return python
    if facts.uv:
        return None
    if not facts.pythons:
        raise NoPython(f"{host} has no Python")
    newest = max(facts.pythons, key=lambda python: python.version)
    version = ".".join(map(str, newest.version))
    raise NoPython(f"the newest Python on {host} is {version} ({newest.path}): devloop needs 3.11")


def platform_tags(python: BoxPython) -> list[str]:
    """What wheels may be for, the newest first (PEP 600, PEP 656)."""
    major, minor = python.libc_version
    if python.libc == "musl":
        return [f"musllinux_{major}_{n}_{python.machine}" for n in range(minor, -1, -1)]
    tags = [f"manylinux_{major}_{n}_{python.machine}" for n in range(minor, 4, -1)]
    legacy = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
    return tags + [f"{name}_{python.machine}" for name, n in legacy.items() if n <= minor]


def printable(*outputs: bytes) -> str:
    """The last lines of what the far side printed, in one line; no control character survives."""
    text = "\n".join(output.decode(errors="backslashreplace") for output in outputs)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = "; ".join(lines[-LAST_LINES:])
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)
    return shown if len(shown) <= 500 else "…" + shown[-499:]
