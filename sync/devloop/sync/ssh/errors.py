"""What can be in the way of a connection over SSH: one class a cause, each with its next step."""

from __future__ import annotations

from typing import Self

from devloop.cafs.errors import DevloopError

__all__ = [
    "AuthenticationFailed",
    "AuthenticationTimedOut",
    "ClientMissing",
    "ClosedEarly",
    "CommandTimedOut",
    "ConfigInvalid",
    "ConnectFailed",
    "ConnectTimedOut",
    "HostKeyChanged",
    "HostKeyError",
    "HostKeyRevoked",
    "HostKeyUnknown",
    "HostUnknown",
    "LinkLost",
    "OutputTooLong",
    "PortRefused",
    "SshError",
    "TargetInvalid",
]


class SshError(DevloopError):
    """The box cannot be reached over SSH, or not any more."""

    @classmethod
    def at(cls, host: str, message: str) -> Self:
        """With the host's name in the hint."""
        return cls(message, hint=cls.hint.replace("HOST", host))


class TargetInvalid(SshError):
    """The words do not name a host."""

    hint = "a target is a host of ~/.ssh/config, or user@host:port"


class ClientMissing(SshError):
    """There is no `ssh` command, and something needs it."""

    hint = "install OpenSSH's client (Debian, Ubuntu: apt-get install openssh-client)"


class ConfigInvalid(SshError):
    """The SSH configuration cannot be used."""

    hint = "`ssh -G HOST` shows what is wrong"


class ConnectFailed(SshError):
    """No connection, for a reason that none of the other classes names."""

    hint = "`ssh -v HOST` shows each step"


class HostUnknown(ConnectFailed):
    """The name has no address."""

    hint = "check the spelling, the Host entries of ~/.ssh/config, and the network (VPN?)"


class PortRefused(ConnectFailed):
    """The machine answers, and nothing listens on that port."""

    hint = "is sshd running there, and on that port?"


class ConnectTimedOut(ConnectFailed):
    hint = "is the machine on, and does a firewall or a VPN lie between?"


class ClosedEarly(ConnectFailed):
    """The far side ended the connection before anybody was authenticated."""

    hint = "the far side's sshd log says why; too many connections, or a block list, are usual"


class AuthenticationFailed(SshError):
    """The far side takes none of the keys and passwords that were offered."""

    hint = "does `ssh HOST` work? `ssh-add -l` lists the keys of the agent"


class AuthenticationTimedOut(AuthenticationFailed):
    """Nothing was refused, and nobody was let in."""

    hint = "a security key that waits to be touched, a locked agent, or a box that hangs is usual"


class HostKeyError(SshError):
    """The far side cannot prove that it is the host that was meant. Nothing was sent to it."""


class HostKeyUnknown(HostKeyError):
    """No known_hosts file has a key of that host."""

    hint = "connect once with `ssh HOST` and compare the fingerprint before you accept it"


class HostKeyChanged(HostKeyError):
    """The far side shows another key than known_hosts has for it: maybe it is another machine."""

    hint = "if it was reinstalled, ask its owner for the new fingerprint, then `ssh-keygen -R HOST`"


class HostKeyRevoked(HostKeyError):
    """The far side shows a key that known_hosts, or a certificate's file, marks as revoked."""

    hint = "do not connect; ask the owner of the machine for its new key"


class LinkLost(SshError):
    """The connection has ended."""

    hint = "the box is out of reach, was restarted, or its sshd was"


class CommandTimedOut(SshError):
    """A command on the box did not end in time. It was given up."""


class OutputTooLong(SshError):
    """A command on the box printed more than was asked for. It was given up."""
