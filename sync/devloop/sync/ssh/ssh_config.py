"""Reading ssh_config where OpenSSH is not installed: paramiko's reader, and `Include` around it.

What differs from `ssh -G` is said in ARCHITECTURE.md.
"""

from __future__ import annotations

import glob
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .host import HostSpec

__all__ = ["included", "read_options"]

MAX_DEPTH = 16
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
DEFAULTS = {
    "identityfile": ["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"],
    "userknownhostsfile": ["~/.ssh/known_hosts ~/.ssh/known_hosts2"],
    "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"],
}
_SECTION = re.compile(r"\s*(host|match)[\s=]", re.IGNORECASE)
_INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)


def read_options(spec: HostSpec, config_file: Path | None) -> dict[str, list[str]]:
    """Lower-case names, a value for each line. Raises ConfigInvalid. Blocks: `Match exec` runs."""
    import paramiko

    files = [config_file] if config_file else [Path("~/.ssh/config").expanduser(), SYSTEM_CONFIG]
    # A section reaches to the end of its file.
    text = "\nHost *\n".join("\n".join(included(file)) for file in files)
    try:
        found = paramiko.SSHConfig.from_text(text).lookup(spec.host)
    except (paramiko.SSHException, ImportError, ValueError) as error:
        raise ConfigInvalid(
            f"the SSH configuration of {spec.host} cannot be used: {error}"
        ) from None
    options = {name: [v] if isinstance(v, str) else list(v) for name, v in found.items()}
    if spec.user is not None:
        options["user"] = [spec.user]
    if spec.port is not None:
        options["port"] = [str(spec.port)]
    return {**DEFAULTS, **options}


def included(file: Path, depth: int = 0) -> Iterator[str]:
    """The lines, with those of included files in their places. A file that is missing is empty.

    What is included into a section counts up to its own first section only.
    Raises ConfigInvalid.
    """
    if depth > MAX_DEPTH:
        raise ConfigInvalid(f"{file} is included too deeply")
    section = ""
    for line in _lines(file):
        if _SECTION.match(line):
            section = line
        found = _INCLUDE.match(line)
        if found is None:
            yield line
            continue
        for path in _named(found[1]):
            for inner in included(path, depth + 1):
                if section and section.split() != ["Host", "*"] and _SECTION.match(inner):
                    break
                yield inner
        yield section or "Host *"


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigInvalid(f"cannot read {file}: {error.strerror}") from None


def _named(words: str) -> Iterator[Path]:
    """A relative name lies in ~/.ssh, whichever file includes it."""
    for word in shlex.split(words, comments=True):
        pattern = Path("~/.ssh").expanduser() / Path(word).expanduser()
        yield from (Path(name) for name in sorted(glob.glob(str(pattern))))
