"""The address of a tier, as users write it, and the tier that it means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .tier import TierInvalid

if TYPE_CHECKING:
    from .tier import Tier

__all__ = ["DEFAULT_TIMEOUT_S", "open_tier"]

DEFAULT_TIMEOUT_S = 10.0


def open_tier(url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Tier:
    """The tier at `url`, which nobody has talked to yet: see `TierInvalid.hint` for the forms.

    `timeout_s`: so long may the other side say nothing. Raises TierInvalid.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port  # raises when it is no number
    except ValueError as error:
        raise TierInvalid(f"not the address of a tier: {_shown(url)} ({error})") from None
    if parts.scheme == "file" and not host and parts.path.startswith("/"):
        from .directory import DirectoryTier

        return DirectoryTier(Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and host:
        from .http import HttpTier

        return HttpTier(url, timeout_s=timeout_s)
    if parts.scheme == "ssh" and host and not host.startswith("-") and parts.password is None:
        from .ssh import SshTier

        return SshTier(url, timeout_s=timeout_s)
    raise TierInvalid(f"not the address of a tier: {_shown(url)}")


def _shown(url: str) -> str:
    """Without what may be a password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200]
