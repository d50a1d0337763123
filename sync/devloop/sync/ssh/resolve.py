"""What the SSH configuration says about a host: by `ssh -G`, or without OpenSSH by our own reading.

Owns the values and their expansion; `ssh_config.py` owns the reading where there is no `ssh`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .child import start_child
from .errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .host import HostSpec

__all__ = ["Resolved", "has_openssh", "resolve", "resolved_from"]

RESOLVE_TIMEOUT_S = 20.0  # a `Match exec` may ask the network

Options = dict[str, list[str]]

# An option that only OpenSSH acts on, and what it is when it asks for nothing.
_OPENSSH_ONLY: Mapping[str, tuple[str, ...]] = {
    "bindaddress": (),
    "bindinterface": (),
    "certificatefile": (),
    "hostbasedauthentication": ("no", "false"),
    "knownhostscommand": ("none",),
    "pkcs11provider": ("none",),
    "proxyusefdpass": ("no", "false"),
    "revokedhostkeys": ("none",),
    "securitykeyprovider": ("internal",),
    "verifyhostkeydns": ("no", "false"),
}


class Resolved(NamedTuple):
    """Paths are expanded. `name` is what the user calls the host."""

    name: str
    hostname: str
    user: str
    port: int = 22
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    identity_agent: str | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None
    known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None
    hash_known_hosts: bool = False
    unknown_hosts: Literal["ask", "refuse", "accept"] = "ask"
    accepts_changed_keys: bool = False
    control_path: Path | None = None
    control_master: bool = False
    address_family: Literal["any", "inet", "inet6"] = "any"
    ciphers: str = ""  # in their order, with commas; empty where only `ssh` knows
    needs_openssh: tuple[str, ...] = ()

    @property
    def lookup_name(self) -> str:
        """What known_hosts calls the host."""
        if self.host_key_alias is not None:
            return self.host_key_alias.lower()
        name = self.hostname.lower()
        return name if self.port == 22 else f"[{name}]:{self.port}"


def has_openssh() -> bool:
    """shutil.which would do; importing shutil costs more than the search."""
    return any(os.access(os.path.join(folder, "ssh"), os.X_OK) for folder in os.get_exec_path())


async def resolve(spec: HostSpec, config_file: Path | None = None) -> Resolved:
    """Raises ConfigInvalid."""
    if has_openssh():
        options = await _ask_ssh(spec, config_file)
    else:
        from .ssh_config import read_options  # it needs paramiko, and who has ssh needs neither

        options = await asyncio.to_thread(read_options, spec, config_file)
    return resolved_from(spec, options)


async def _ask_ssh(spec: HostSpec, config_file: Path | None) -> Options:
    words = ["ssh", "-T", "-G", *(("-F", str(config_file)) if config_file else ())]
    words += [
        *(("-l", spec.user) if spec.user else ()),
        *(("-p", str(spec.port)) if spec.port else ()),
    ]
    child = await start_child(
        [*words, "--", spec.host], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            assert child.stdout is not None
            output = await child.stdout.read(-1)
            code = await child.wait()
    except TimeoutError:
        raise ConfigInvalid(f"`ssh -G {spec.host}` does not answer") from None
    finally:
        await child.end()
    if code:
        said = "; ".join(child.stderr_tail.decode(errors="replace").split("\n")).strip("; ")
        raise ConfigInvalid(
            f"the SSH configuration of {spec.host} cannot be used: {said}",
            hint=f"`ssh -G {spec.host}` shows what is wrong",
        )
    options: Options = {}
    for line in output.decode(errors="surrogateescape").splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


def resolved_from(spec: HostSpec, options: Mapping[str, Sequence[str]]) -> Resolved:
    """`options`: lower-case names, a value for each line that sets them. Raises ConfigInvalid."""

    def value(name: str, default: str = "") -> str:
        return (options.get(name) or [default])[0]

    def is_set(name: str) -> bool:
        return value(name).lower() in ("yes", "true")

    port = value("port", "22")
    if not port.isdigit():
        raise ConfigInvalid(f"the SSH configuration of {spec.host} says Port {port}")
    bare = Resolved(
        name=spec.host,
        hostname=value("hostname", spec.host),
        user=value("user") or _local_user(),
        port=int(port),
        host_key_alias=value("hostkeyalias") or None,
    )
    strict = value("stricthostkeychecking", "ask").lower()
    return bare._replace(
        identity_files=tuple(_path(bare, name) for name in options.get("identityfile", ())),
        identities_only=is_set("identitiesonly"),
        identity_agent=_agent(bare, value("identityagent", "SSH_AUTH_SOCK")),
        proxy_jump=_unless_none(value("proxyjump")),
        proxy_command=_unless_none(_expanded(bare, value("proxycommand"))),
        known_hosts=_paths(bare, value("userknownhostsfile")),
        global_known_hosts=_paths(bare, value("globalknownhostsfile")),
        hash_known_hosts=is_set("hashknownhosts"),
        unknown_hosts=_unknown_hosts(strict),
        accepts_changed_keys=strict in ("no", "off", "false"),
        control_path=_control_path(value("controlpath")),
        control_master=value("controlmaster", "no").lower() not in ("no", "false"),
        address_family=_family(value("addressfamily", "any")),
        ciphers=value("ciphers"),
        needs_openssh=tuple(_needs(options)),
    )


def _unknown_hosts(strict: str) -> Literal["ask", "refuse", "accept"]:
    if strict in ("yes", "true"):
        return "refuse"
    return "accept" if strict in ("accept-new", "no", "off", "false") else "ask"


def _family(value: str) -> Literal["any", "inet", "inet6"]:
    return value if value in ("inet", "inet6") else "any"  # type: ignore[return-value] # narrowed


def _needs(options: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        name
        for name, idle in _OPENSSH_ONLY.items()
        if any(value and value.lower() not in idle for value in options.get(name, ()))
    ]


def _unless_none(value: str) -> str | None:
    return value if value and value.lower() != "none" else None


def _control_path(value: str) -> Path | None:
    return Path(value).expanduser() if _unless_none(value) else None


def _agent(resolved: Resolved, value: str) -> str | None:
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK")
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}"))
    return str(_path(resolved, value))


def _paths(resolved: Resolved, value: str) -> tuple[Path, ...]:
    """`ssh -G` prints them side by side, and does not quote spaces: each starts with / or ~."""
    names = [name for name in re.split(r"\s+(?=[/~])", value.strip()) if _unless_none(name)]
    return tuple(_path(resolved, name.strip('"')) for name in names)


def _path(resolved: Resolved, value: str) -> Path:
    expanded = re.sub(
        r"\$\{(\w+)\}", lambda m: os.environ.get(m[1], ""), _expanded(resolved, value)
    )
    return Path(expanded).expanduser()


def _local_user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _expanded(resolved: Resolved, value: str) -> str:
    """With the tokens of ssh_config(5) replaced; one that is not known stays."""
    if "%" not in value:
        return value
    local = socket.gethostname()
    tokens = {
        "%": "%",
        "d": str(Path.home()),
        "h": resolved.hostname,
        "i": str(os.getuid()),
        "k": resolved.host_key_alias or resolved.hostname,
        "L": local.partition(".")[0],
        "l": local,
        "n": resolved.name,
        "p": str(resolved.port),
        "r": resolved.user,
        "u": _local_user(),
    }
    return re.sub(r"%(.)", lambda m: tokens.get(m[1], m[0]), value)
