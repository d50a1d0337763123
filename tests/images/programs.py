"""A small root that can run something: programs of this machine with the libraries they load.

Image([layer(small_root("sh", "cat"))])
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.images.layout import Dir, File, Symlink

if TYPE_CHECKING:
    from tests.images.layout import Entry

__all__ = ["small_root"]

_LIBRARY = re.compile(r"(/\S+) \(0x")


def small_root(*names: str) -> dict[str, Entry]:
    """As Debian has it: all below /usr, and links to it at the top."""
    entries: dict[str, Entry] = {
        **{name: Symlink(f"usr/{name}") for name in ("bin", "lib", "lib64")},
        **{name: Dir() for name in ("usr", "usr/bin", "usr/lib", "usr/lib64", "etc", "root")},
        "tmp": Dir(0o1777),
        "etc/passwd": File(b"root:x:0:0:root:/root:/bin/sh\n"),
    }
    for name in names:
        program = shutil.which(name, path="/usr/bin:/bin")
        assert program is not None, name
        entries[f"usr/bin/{name}"] = File(Path(program).read_bytes(), 0o755)
        for library in _libraries(program):
            _add(entries, library)
    return entries


def _libraries(program: str) -> list[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return _LIBRARY.findall(done.stdout)


def _add(entries: dict[str, Entry], library: str) -> None:
    path = library.removeprefix("/usr").removeprefix("/")
    folders = Path(f"usr/{path}").parent
    entries.setdefault(str(folders), Dir())
    entries[f"usr/{path}"] = File(Path(library).read_bytes(), 0o755)
