"""The name of an image in a registry, by Docker's rules. Plain text; asks nobody.

    [registry[:port]/]path[:tag][@digest]

The first part is a registry when it has a dot or a colon, is `localhost`, or has a capital letter.
Otherwise the registry is docker.io, where a name of one part lies in `library/`. A digest makes the
tag beside it meaningless. Grammar: https://pkg.go.dev/github.com/distribution/reference
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .source_errors import ReferenceInvalid

__all__ = ["DIGEST", "DOCKER_HUB", "Reference", "parse_reference"]

DOCKER_HUB = "docker.io"
MAX_NAME_CHARS = 255
# The two algorithms that the OCI image specification registers.
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Reference(NamedTuple):
    """`tag` is empty when there is a digest."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the tag or the digest."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """Raises ReferenceInvalid."""
    _refuse_what_is_no_name(text)
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        hint = "a digest is sha256: and 64 hexadecimal digits, all of them, in lower case"
        raise ReferenceInvalid(f'the digest of "{text}" is none', hint=hint)
    registry, rest = _split_registry(rest)
    path, _, tag = rest.partition(":")
    _check_path(path, text)
    if tag or rest.endswith(":"):
        _check_tag(tag, text)
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if len(registry) + 1 + len(path) > MAX_NAME_CHARS:
        raise ReferenceInvalid(f"a name of more than {MAX_NAME_CHARS} characters is no image's")
    return Reference(registry, path, "" if digest else tag or "latest", digest)


def _refuse_what_is_no_name(text: str) -> None:
    if not text.isprintable():
        raise ReferenceInvalid("the name of an image has no control characters")
    if not text or " " in text:
        raise ReferenceInvalid("the name of an image is one word" if text else "no image is named")
    scheme, found, rest = text.partition("://")
    if found:
        hint = f'leave out "{scheme}://": "{rest}"'
        raise ReferenceInvalid(f'"{text}" is an address, not a name', hint=hint)
    if re.fullmatch(r"[0-9a-f]{64}", text):
        hint = "name it as NAME@sha256:…, or by NAME:TAG"
        raise ReferenceInvalid(f'"{text}" is an identifier, not a name', hint=hint)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    named = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not named:
        return DOCKER_HUB, name
    if not _HOST.fullmatch(first):
        raise ReferenceInvalid(f'"{first}" is no registry', hint="host or host:port")
    if first.rpartition(":")[2].isdigit() and int(first.rpartition(":")[2]) > 65535:
        raise ReferenceInvalid(f'"{first}" names a port above 65535')
    registry = first.lower()
    return DOCKER_HUB if registry in ("index.docker.io", "registry-1.docker.io") else registry, rest


def _check_path(path: str, text: str) -> None:
    if _PATH.fullmatch(path):
        return
    if _PATH.fullmatch(path.lower()):
        hint = f'"{text.replace(path, path.lower(), 1)}"'
        raise ReferenceInvalid(f'"{path}" has capital letters: no image has them', hint=hint)
    if not path:
        raise ReferenceInvalid(f'"{text}" names a registry and no image')
    raise ReferenceInvalid(f'"{path}" is no name of an image')


def _check_tag(tag: str, text: str) -> None:
    if not _TAG.fullmatch(tag):
        hint = "letters, digits, dots, dashes and underscores, at most 128"
        raise ReferenceInvalid(f'"{tag}" in "{text}" is no tag', hint=hint)
