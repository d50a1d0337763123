"""What a program touched of an image at its start, so that the next box fetches it ahead.

Owns the format and the choice among several. Knows neither how it was found out nor how blobs are
fetched. A profile lies in IMAGES/profiles/NAME, a text of UTF-8 lines:

    devloop profile 2
    index DIGEST
    program "python3"                     JSON; for people: the name of what ran, without its folder
    words 83f1 0c2e                       a key for each word of the command, up to MAX_WORDS
    DIGEST                                a blob, all of it
    DIGEST FIRST+CHUNKS                   pieces of a large blob, in units of `index.CHUNK_BYTES`

in the order in which they were touched. NAME is `INDEX-KEY`: KEY tells commands apart.

Profiles travel with images, to whoever may read these; the arguments of a command may hold secrets,
and stay. A word's key depends on the one before it: equal keys are an equal beginning. It is short
on purpose: it tells the few commands of an image apart, and one in 65,536 of all guesses has it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from devloop.cafs.digest import Digest, digest_of
from devloop.cafs.errors import DevloopError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Command",
    "Profile",
    "ProfileInvalid",
    "Touch",
    "best_for",
    "command_of",
    "profile_name",
]

HEADER = "devloop profile 2"
MAX_TOUCHES = 1_000_000
MAX_WORDS = 32
MAX_PROGRAM_CHARS = 64
WORD_KEY_DIGITS = 4
NAME_KEY_DIGITS = 16
_WORD_KEY = re.compile(rf"[0-9a-f]{{{WORD_KEY_DIGITS}}}")
_LINE = re.compile(r"([0-9a-f]{64})(?: (0|[1-9][0-9]{0,8})\+([1-9][0-9]{0,8}))?")


class ProfileInvalid(DevloopError):
    """Not a profile. Nothing depends on it: the start is slower without."""


class Touch(NamedTuple):
    """`chunks` pieces of a large blob from `first` on; 0: all of the blob."""

    digest: Digest
    first: int = 0
    chunks: int = 0


class Command(NamedTuple):
    """A command of an image, as far as others may know it. Make it by `command_of`."""

    program: str
    keys: tuple[str, ...]


class Profile(NamedTuple):
    image: Digest  # its index
    command: Command
    touches: tuple[Touch, ...]

    @property
    def name(self) -> str:
        return profile_name(self.image, self.command)

    def encode(self) -> bytes:
        program, keys = self.command
        lines = [HEADER, f"index {self.image.hex()}", f"program {json.dumps(program)}"]
        lines += [" ".join(("words", *keys))]
        lines += [
            f"{digest.hex()} {first}+{chunks}" if chunks else digest.hex()
            for digest, first, chunks in self.touches
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def decode(cls, data: bytes) -> Profile:
        """Raises ProfileInvalid."""
        try:
            header, index, program, words, *lines = data.decode().splitlines()
            command = Command(
                json.loads(program.removeprefix("program ")),
                tuple(words.removeprefix("words").split()),
            )
            touches = tuple(map(_touch, lines))
            profile = cls(Digest.fromhex(index.removeprefix("index ")), command, touches)
        except (ValueError, TypeError, RecursionError) as error:
            raise ProfileInvalid(f"not a profile: {error}") from None
        is_good = header == HEADER and _is_good(command) and len(lines) <= MAX_TOUCHES
        if not is_good or profile.encode() != data:
            raise ProfileInvalid("not a profile")
        return profile


def command_of(image: Digest, words: Sequence[str]) -> Command:
    """`words`: bytes as surrogates."""
    key, keys = "", []
    for word in words[:MAX_WORDS]:
        key = _key(image.hex(), key, word)[:WORD_KEY_DIGITS]
        keys.append(key)
    program = words[0].rpartition("/")[2] if words else ""
    return Command(program[:MAX_PROGRAM_CHARS], tuple(keys))


def profile_name(image: Digest, command: Command) -> str:
    """Of the keys alone: it tells no more than they do."""
    return f"{image.hex()}-{_key(*command.keys)[:NAME_KEY_DIGITS]}"


def _key(*parts: str) -> str:
    return digest_of(json.dumps(parts).encode()).hex()


def _is_good(command: Command) -> bool:
    is_text = isinstance(command.program, str) and len(command.program) <= MAX_PROGRAM_CHARS
    keys = command.keys
    return is_text and len(keys) <= MAX_WORDS and all(map(_WORD_KEY.fullmatch, keys))


def best_for(command: Command, profiles: Iterable[Profile]) -> Profile | None:
    """That of the command itself, else of the one that begins most alike: other arguments of a
    program, and other programs of an interpreter, have most of their files in common."""

    def likeness(profile: Profile) -> tuple[int, int]:
        pairs = list(zip(command.keys, profile.command.keys, strict=False))
        same = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
        return same, -abs(len(profile.command.keys) - len(command.keys))

    return max((p for p in profiles if likeness(p)[0]), key=likeness, default=None)


def _touch(line: str) -> Touch:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not a line of it: {line[:80]!r}")
    digest, first, chunks = found.groups()
    return Touch(Digest.fromhex(digest), int(first or 0), int(chunks or 0))
