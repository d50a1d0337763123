"""The one way to get a link to a host: which client carries it, and what it shares with others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from devloop.cafs import dirs
from devloop.cafs.digest import digest_of

from .errors import ClientMissing, ConfigInvalid
from .host import parse_host
from .openssh import MAX_CONTROL_PATH, Call, Shared, connect_openssh
from .resolve import has_openssh, resolve

if TYPE_CHECKING:
    from .host import HostSpec
    from .link import Link, Prompter
    from .resolve import Resolved

__all__ = ["Client", "SshOptions", "choose_client", "connect"]

Client = Literal["openssh", "paramiko"]


class SshOptions(NamedTuple):
    """`config_file` stands for ~/.ssh/config and /etc/ssh/ssh_config, as with `ssh -F`.

    `persist_s`: for so long after its last use the connection stays, for the next command of this
    user; 0 ends it with the link. Only `openssh` can keep one.
    """

    client: Literal["auto", "openssh", "paramiko"] = "auto"
    config_file: Path | None = None
    connect_timeout_s: float = 10.0
    persist_s: int = 0


async def connect(target: str, options: SshOptions, prompter: Prompter | None = None) -> Link:
    """One authenticated connection; nobody is asked anything without a prompter.

    Raises a subclass of SshError for each cause, DirectoryUnusable.
    """
    spec = parse_host(target)
    resolved = await resolve(spec, options.config_file)
    in_terminal = prompter is not None and prompter.owns_terminal
    asks_elsewhere = prompter is not None and not in_terminal
    client = choose_client(options.client, resolved, has_openssh(), asks_elsewhere=asks_elsewhere)
    if client == "paramiko":
        from .paramiko_link import connect_paramiko  # its import costs more than a connection

        return await connect_paramiko(
            resolved,
            config_file=options.config_file,
            connect_timeout_s=options.connect_timeout_s,
            prompter=prompter,
        )
    call = Call(
        spec,
        options.config_file,
        options.connect_timeout_s,
        may_ask=in_terminal,
        overrides=_overrides(resolved),
    )
    return await connect_openssh(call, _shared(spec, resolved, options))


def choose_client(
    wanted: Literal["auto", "openssh", "paramiko"],
    resolved: Resolved,
    ssh_is_installed: bool,
    *,
    asks_elsewhere: bool = False,
) -> Client:
    """`asks_elsewhere`: the user is asked in a screen of ours, where `ssh` itself cannot ask.

    Raises ClientMissing, ConfigInvalid.
    """
    needs = ", ".join(resolved.needs_openssh)
    if wanted == "paramiko" and needs:
        raise ConfigInvalid(
            f"the SSH configuration of {resolved.name} sets {needs}, which only OpenSSH knows",
            hint='leave ssh.client at "auto"',
        )
    if wanted != "auto":
        return wanted
    if ssh_is_installed:
        return "paramiko" if asks_elsewhere and not needs else "openssh"
    if needs:
        raise ClientMissing(
            f"the SSH configuration of {resolved.name} sets {needs}, which needs `ssh`"
        )
    return "paramiko"


def _overrides(resolved: Resolved) -> tuple[str, ...]:
    """A changed host key is refused, also where the configuration lets anybody pass."""
    return ("StrictHostKeyChecking=accept-new",) if resolved.accepts_changed_keys else ()


def _shared(spec: HostSpec, resolved: Resolved, options: SshOptions) -> Shared | None:
    """The user's own ControlMaster comes first: it is what `ssh` would use."""
    if resolved.control_path is not None and (
        resolved.control_master or resolved.control_path.exists()
    ):
        return Shared(resolved.control_path)
    if not options.persist_s:
        return None
    key = repr((spec, options.config_file, resolved)).encode()
    path = dirs.runtime_dir() / f"p-{digest_of(key).hex()[:16]}"
    return Shared(path, options.persist_s) if len(str(path)) <= MAX_CONTROL_PATH else None
