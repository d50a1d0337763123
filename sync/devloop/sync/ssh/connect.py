"""The one way to get a link to a host: which client carries it, and what it shares with others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from devloop.cafs import dirs
from devloop.cafs.digest import digest_of
from devloop.cafs.ssh_ciphers import fast_first

from .errors import AuthenticationFailed, ClientMissing, ConfigInvalid
from .host import parse_host
from .openssh import TEMPORARY_NAME_BYTES, Call, Shared, connect_openssh, end_master
from .resolve import has_openssh, resolve
from .sockets import fits

if TYPE_CHECKING:
    from .host import HostSpec
    from .link import Link, Prompter
    from .resolve import Resolved

__all__ = ["Client", "SshOptions", "choose_client", "connect", "end_kept"]

ANSWER_TIMEOUT_S = 5.0  # of a login shell's start, over a connection that may be dead

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


async def connect(
    target: str, options: SshOptions, prompter: Prompter | None = None, *, again: bool = False
) -> Link:
    """One authenticated connection; nobody is asked anything without a prompter.

    `again`: after a connection was lost. It may be one that is shared, so this one is not, unless
    nobody is let in without the user.
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
    if again:
        return await _connect_again(call, resolved)
    return await connect_openssh(call, _shared(spec, resolved, options))


async def _connect_again(call: Call, resolved: Resolved) -> Link:
    """The user's own ControlMaster has what it takes to get in; whether it lives is to be seen."""
    try:
        return await connect_openssh(call)
    except AuthenticationFailed:
        master = resolved.control_path
        if master is None or not master.exists():
            raise
    link = await connect_openssh(call, Shared(master))
    try:
        await link.run(":", timeout_s=ANSWER_TIMEOUT_S)
    except BaseException:
        await link.close()
        raise
    return link


async def end_kept(target: str, options: SshOptions) -> None:
    """The connection that `persist_s` keeps, if there is one. Raises SshErrors."""
    spec = parse_host(target)
    resolved = await resolve(spec, options.config_file)
    shared = _shared(spec, resolved, options)
    if shared is not None and shared.persist_s is not None:
        await end_master(Call(spec, options.config_file), shared.path)


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
    """A changed host key is refused, also where the configuration lets anybody pass; and of the
    ciphers that it allows the fast ones come first."""
    ciphers = fast_first(resolved.ciphers)
    return (
        *(("StrictHostKeyChecking=accept-new",) if resolved.accepts_changed_keys else ()),
        *((f"Ciphers={ciphers}",) if ciphers else ()),
    )


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
    is_short = fits(path, spare_bytes=TEMPORARY_NAME_BYTES)
    return Shared(path, options.persist_s) if is_short else None
