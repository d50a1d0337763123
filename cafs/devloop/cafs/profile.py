"""What a program touched of an image at its start, so that the next box fetches it ahead.

Owns the format and the choice among several. Knows neither how it was found out nor how blobs are
fetched. A profile lies in IMAGES/profiles/NAME, a text of UTF-8 lines:

    devloop profile 1
    index DIGEST
    command ["python3", "train.py"]       JSON; the words of the command, bytes as surrogates
    DIGEST                                a blob, all of it
    DIGEST FIRST+CHUNKS                   pieces of a large blob, in units of `index.CHUNK_BYTES`

in the order in which they were touched. NAME is `INDEX-KEY`: KEY tells commands apart.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Profile", "ProfileInvalid", "Touch", "best_for", "profile_name"]

HEADER = "devloop profile 1"
MAX_TOUCHES = 1_000_000
KEY_DIGITS = 16
_LINE = re.compile(r"([0-9a-f]{64})(?: (0|[1-9][0-9]{0,8})\+([1-9][0-9]{0,8}))?")


class ProfileInvalid(DevloopError):
    """Not a profile. Nothing depends on it: the start is slower without."""


class Touch(NamedTuple):
    """`chunks` pieces of a large blob from `first` on; 0: all of the blob."""

    digest: Digest
    first: int = 0
    chunks: int = 0


class Profile(NamedTuple):
    image: Digest  # its index
    command: tuple[str, ...]
    touches: tuple[Touch, ...]

    @property
    def name(self) -> str:
        return profile_name(self.image, self.command)

    def encode(self) -> bytes:
        lines = [HEADER, f"index {self.image.hex()}", f"command {json.dumps(self.command)}"]
        lines += [
            f"{digest.hex()} {first}+{chunks}" if chunks else digest.hex()
            for digest, first, chunks in self.touches
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def decode(cls, data: bytes) -> Profile:
        """Raises ProfileInvalid."""
        try:
            header, index, command, *lines = data.decode().splitlines()
            words = tuple(json.loads(command.removeprefix("command ")))
            profile = cls(
                Digest.fromhex(index.removeprefix("index ")), words, tuple(map(_touch, lines))
            )
        except (ValueError, TypeError) as error:
            raise ProfileInvalid(f"not a profile: {error}") from None
        is_good = header == HEADER and all(isinstance(word, str) for word in words)
        if not is_good or len(lines) > MAX_TOUCHES or profile.encode() != data:
            raise ProfileInvalid("not a profile")
        return profile


def profile_name(index: Digest, command: Sequence[str]) -> str:
    key = digest_of(json.dumps(tuple(command)).encode()).hex()[:KEY_DIGITS]
    return f"{index.hex()}-{key}"


def best_for(command: Sequence[str], profiles: Iterable[Profile]) -> Profile | None:
    """That of the command itself, else of the one that begins most alike: other arguments of a
    program, and other programs of an interpreter, have most of their files in common."""

    def likeness(profile: Profile) -> tuple[int, int]:
        same = 0
        for ours, theirs in zip(command, profile.command, strict=False):
            if ours != theirs:
                break
            same += 1
        return same, -abs(len(profile.command) - len(command))

    return max((p for p in profiles if likeness(p)[0]), key=likeness, default=None)


def _touch(line: str) -> Touch:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not a line of it: {line[:80]!r}")
    digest, first, chunks = found.groups()
    return Touch(Digest.fromhex(digest), int(first or 0), int(chunks or 0))
