"""User names and passwords for registries, as `docker login` and `skopeo login` have kept them.

Asks, in order, the first file that has something for the registry:

    $REGISTRY_AUTH_FILE
    $XDG_RUNTIME_DIR/containers/auth.json, $XDG_CONFIG_HOME/containers/auth.json
    $DOCKER_CONFIG/config.json, ~/.docker/config.json

Of a file: `credHelpers` of the registry, then `auths`, then `credsStore`. A helper is the program
docker-credential-NAME, told the registry on its stdin. What cannot be read is no error: an image
that is for everybody needs no password. It is told as `trouble` when one was needed.

https://man.archlinux.org/man/containers-auth.json.5, https://github.com/docker/docker-credential-helpers
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Credentials", "Found", "find_credentials"]

HELPER_TIMEOUT_S = 20.0
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io")
# What a helper gives as the user name when the secret is an identity token.
_TOKEN_USER = "<token>"


class Credentials(NamedTuple):
    """A password, or an identity token, which a token server takes instead; or a bearer token."""

    user: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, …)"


class Found(NamedTuple):
    """`trouble`: what kept us from looking everywhere; empty when nothing did."""

    credentials: Credentials | None
    trouble: str = ""


def find_credentials(
    registry: str, repository: str = "", environ: Mapping[str, str] = os.environ
) -> Found:
    """`registry`: host[:port]. Starts a helper where one is configured: takes up to 20 s."""
    troubles = []
    for path in _files(environ):
        try:
            found = _in_file(path, registry, repository, environ)
        except _Trouble as trouble:
            troubles.append(str(trouble))
            continue
        if found is not None:
            return Found(found)
    return Found(None, "; ".join(troubles))


class _Trouble(Exception):
    """Says what could not be used. Has no secret in it."""


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME") or Path.home())
    if explicit := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _in_file(
    path: Path, registry: str, repository: str, environ: Mapping[str, str]
) -> Credentials | None:
    config = _load(path)
    helpers = {_plain(key): value for key, value in _mapping(config, "credHelpers").items()}
    if isinstance(helper := helpers.get(registry), str) and helper:
        return _ask_helper(helper, registry, environ)
    auths = {_plain(key): value for key, value in _mapping(config, "auths").items()}
    for key in _keys(registry, repository):
        if (found := _of_entry(auths.get(key), path)) is not None:
            return found
    store = config.get("credsStore")
    return _ask_helper(store, registry, environ) if isinstance(store, str) and store else None


def _load(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _Trouble(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _Trouble(f"{path} is no JSON") from None
    return config if isinstance(config, dict) else {}


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _keys(registry: str, repository: str) -> Iterator[str]:
    """The most particular first: a file of containers may have one for a part of a registry."""
    name = f"{registry}/{repository}" if repository else registry
    while True:
        yield name
        name, slash, _ = name.rpartition("/")
        if not slash:
            return


def _plain(key: str) -> str:
    """Docker's keys are addresses: https://index.docker.io/v1/, https://host."""
    key = key.partition("://")[2] or key
    key = key.rstrip("/").removesuffix("/v1").removesuffix("/v2")
    host, slash, path = key.partition("/")
    return (DOCKER_HUB if host in _HUB_HOSTS else host.lower()) + slash + path


def _of_entry(entry: object, path: Path) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    words = {key: value for key, value in entry.items() if isinstance(value, str)}
    user, password = words.get("username", ""), words.get("password", "")
    if words.get("auth"):
        user, password = _decode(words["auth"], path)
    found = Credentials(
        user, password, words.get("identitytoken", ""), words.get("registrytoken", "")
    )
    return found if any(found) else None


def _decode(auth: str, path: Path) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if not colon:
        raise _Trouble(f"{path} has an `auth` that is no user:password in base64")
    return user, password.rstrip("\0")


def _ask_helper(name: str, registry: str, environ: Mapping[str, str]) -> Credentials | None:
    """None when it knows nothing of the registry."""
    program = f"docker-credential-{name}"
    if "/" in name:
        raise _Trouble(f"{program} is no name of a program")
    server = _HUB_KEY if registry == DOCKER_HUB else registry
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            env=dict(environ),
            check=False,
        )
    except FileNotFoundError:
        raise _Trouble(f"{program} is not installed") from None
    except OSError as error:
        raise _Trouble(f"{program} does not start: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise _Trouble(f"{program} did not answer within {HELPER_TIMEOUT_S:g} s") from None
    return _answer_of(program, done.returncode, done.stdout)


def _answer_of(program: str, returncode: int, output: bytes) -> Credentials | None:
    """Its words are never repeated: they may hold the secret."""
    if returncode:
        if b"not found" in output:
            return None
        raise _Trouble(f"{program} exited with {returncode}")
    try:
        answer = json.loads(output)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError):
        raise _Trouble(f"{program} gave no credentials that can be read") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise _Trouble(f"{program} gave no credentials that can be read")
    if user == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)
