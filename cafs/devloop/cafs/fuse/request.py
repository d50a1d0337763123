"""What a FUSE server is told to do: one JSON object, one line, on its standard input.

    mode        "blobs": the blobs of an image under the names of the blob directory, ab/cdef…
                "tree": the image itself
    mountpoint  absolute path of a directory; the server mounts there, in its own mount namespace
    store       absolute path of the images folder (`images`)
    index       digest of an index in it, in hex
    tiers       addresses, nearest first (`tiers.address`); may be empty
    profile     absolute path of a profile of that index (`profile`), whose blobs are fetched ahead
                of being asked for; empty: there is none
    deadline_s  so long may a reader wait for bytes, in seconds; then it gets EIO

Afterwards standard input stays open: the server ends at its end.

Two lines may come before, as soon as what they say is known: `tiers` and `deadline_s` alone, upon
which the server loads what it needs and connects to them, and then `store`, `index` and `profile`,
upon which it reads that index and begins to fetch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from devloop.cafs.digest import Digest
from devloop.cafs.errors import DevloopError

__all__ = ["DEFAULT_DEADLINE_S", "Ahead", "Announced", "Mode", "Request", "RequestInvalid"]

DEFAULT_DEADLINE_S = 20.0

Mode = Literal["blobs", "tree"]


class RequestInvalid(DevloopError):
    """The first line on standard input is not a request."""

    hint = "devloop.cafs.fuse.request says what the server is to be told"


class Ahead(NamedTuple):
    """What comes before a request."""

    tiers: tuple[str, ...]
    deadline_s: float = DEFAULT_DEADLINE_S

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Ahead | None:
        """None for what is something else."""
        try:
            fields = json.loads(line)
            if set(fields) == set(cls._fields):
                return cls(tuple(map(str, fields["tiers"])), float(fields["deadline_s"]))
        except (ValueError, TypeError):
            pass
        return None


class Announced(NamedTuple):
    """Which image a request will be about; `profile` as there, and may turn out another."""

    store: Path
    image: Digest
    profile: str = ""

    def encode(self) -> bytes:
        fields = {"store": str(self.store), "index": self.image.hex(), "profile": self.profile}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Announced | None:
        """None for what is something else."""
        try:
            fields = json.loads(line)
            if set(fields) == {"store", "index", "profile"}:
                digest = Digest.fromhex(fields["index"])
                return cls(Path(fields["store"]), digest, str(fields["profile"]))
        except (ValueError, TypeError):
            pass
        return None

    def request(self, line: bytes, ahead: Ahead) -> Request | None:
        """The request that was announced so; None for another one, and for what is none."""
        try:
            request = Request.decode(line)
        except RequestInvalid:
            return None
        told = (request.store, request.image, request.tiers)
        return request if told == (self.store, self.image, ahead.tiers) else None


class Request(NamedTuple):
    mode: Mode
    mountpoint: Path
    store: Path
    image: Digest  # of its index
    tiers: tuple[str, ...] = ()
    deadline_s: float = DEFAULT_DEADLINE_S
    profile: str = ""

    def encode(self) -> bytes:
        fields = self._asdict() | {
            "mountpoint": str(self.mountpoint),
            "store": str(self.store),
            "index": self.image.hex(),
        }
        del fields["image"]
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Request:
        """Raises RequestInvalid."""
        try:
            fields: dict[str, Any] = json.loads(line)
            request = cls(
                mode=fields.pop("mode"),
                mountpoint=Path(fields.pop("mountpoint")),
                store=Path(fields.pop("store")),
                image=Digest.fromhex(fields.pop("index")),
                tiers=tuple(map(str, fields.pop("tiers", ()))),
                deadline_s=float(fields.pop("deadline_s", DEFAULT_DEADLINE_S)),
                profile=str(fields.pop("profile", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestInvalid(f"not a request: {error!r}") from None
        if request.mode not in get_args(Mode) or request.deadline_s <= 0 or fields:
            raise RequestInvalid(f"not a request: {line[:400]!r}")
        if not (request.mountpoint.is_absolute() and request.store.is_absolute()):
            raise RequestInvalid("mountpoint and store are absolute paths")
        return request
