"""One registry as one repository's reader sees it: scheme, login, redirects, refusals.

Knows paths and statuses of the distribution specification; not what a manifest says.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import re
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

from .auth import Authenticator, parse_challenges
from .manifest import ACCEPTED, parse_json
from .registry_http import Http, NotTls, NotTrusted, Request, Response
from .source_errors import (
    ImageUnknown,
    RegistryFailed,
    RegistryUnreachable,
    SourceError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .credentials import Found

__all__ = ["Place", "RegistryClient"]

HUB_ENDPOINT = "registry-1.docker.io"
MAX_REDIRECTS = 5
MAX_LOGINS = 2  # a token may have run out, and be refused for its scope
_REDIRECTS = (301, 302, 303, 307, 308)
_CODE = re.compile(r"[A-Z][A-Z_]{1,40}")


class Place(NamedTuple):
    """Where a repository is. `registry`: as people name it; `host`: whom we connect to."""

    registry: str
    host: str
    repository: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"


class RegistryClient:
    """For any thread. Connects when it is first asked for something. It raises SourceError."""

    def __init__(self, http: Http, place: Place, found: Found) -> None:
        self.place = place
        self._http = http
        self._auth = Authenticator(
            self, place.registry, place.repository, found.credentials, found.trouble
        )
        self._base = ""
        self._lock = Lock()

    def manifest(self, wanted: str) -> tuple[bytes, str]:
        """The bytes, unverified, and their media type. `wanted`: a tag or a digest."""
        return self._http.again(lambda: self._manifest_once(wanted))

    def _manifest_once(self, wanted: str) -> tuple[bytes, str]:
        response = self._get(f"manifests/{wanted}", {"Accept": ", ".join(ACCEPTED)})
        if response.status == 404:
            response.close()
            raise self._unknown(wanted)
        self._expect(response, (200,), f"image {self.place}:{wanted}")
        return response.document(), response.header("Content-Type").partition(";")[0].strip()

    def blob(self, digest: str, position: int) -> Response:
        """From `position` on, whether the registry knows ranges or not."""
        headers = {"Range": f"bytes={position}-"} if position else {}
        response = self._get(f"blobs/{digest}", headers)
        if response.status == 404:
            response.close()
            raise ImageUnknown(f"{self.place} lacks its blob {digest}", hint="push the image again")
        self._expect(response, (200, 206, 416), f"blob {digest} of {self.place}")
        if response.status == 200:
            _skip(response, position)
        elif response.status == 206 and not _starts_at(response, position):
            response.close()
            raise RegistryFailed(f"{self.place.host} sends another range than was asked for")
        return response

    def ask(self, url: str, headers: Mapping[str, str], form: str | None) -> tuple[int, bytes]:
        """Of the token server. A password goes to no server in the clear, but on this machine."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not self._may_be_plain(parts.netloc):
            message = f"{self.place.registry} wants the login sent to {parts.netloc} without TLS"
            raise RegistryUnreachable(message, hint="name both as insecure if you trust them")

        def ask_once() -> tuple[int, bytes]:
            response = self._http.send(Request(url, headers, form))
            return response.status, response.document()

        return self._http.again(ask_once)

    def _may_be_plain(self, host: str) -> bool:
        return bool(host) and self._http.may_be_plain(host)

    def _get(self, path: str, headers: Mapping[str, str]) -> Response:
        """Logs in as often as that helps, and follows redirects."""
        url = f"{self._find_base()}/{self.place.repository}/{path}"
        for _ in range(MAX_LOGINS):
            shown = self._auth.header
            response = self._http.send(Request(url, self._with_login(headers, shown)))
            if response.status != 401:
                break
            self._log_in(response, shown)
        return self._follow(url, response, headers)

    def _with_login(self, headers: Mapping[str, str], shown: str) -> Mapping[str, str]:
        return {**headers, "Authorization": shown} if shown else headers

    def _log_in(self, response: Response, shown: str) -> None:
        response.close()
        self._auth.answer(parse_challenges(response.headers("WWW-Authenticate")), shown)

    def _follow(self, url: str, response: Response, headers: Mapping[str, str]) -> Response:
        """The login is shown to the registry itself and to nobody else."""
        origin = urlsplit(url)[:2]
        for _ in range(MAX_REDIRECTS):
            location = response.header("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.close()
            url = urljoin(url, location)
            parts = urlsplit(url)
            if parts.scheme != "https" == origin[0] and not self._may_be_plain(parts.netloc):
                raise RegistryFailed(f"{self.place.host} leads away from TLS, to {parts.netloc}")
            shown = self._auth.header if parts[:2] == origin else ""
            response = self._http.send(Request(url, self._with_login(headers, shown)))
        response.close()
        raise RegistryFailed(f"{self.place.host} leads in a circle")

    def _find_base(self) -> str:
        with self._lock:
            if not self._base:
                self._base = self._ping()
            return self._base

    def _ping(self) -> str:
        """TLS if it is spoken; plain HTTP only where that is allowed."""
        url = f"https://{self.place.host}/v2/"
        try:
            self._greet(url)
        except RegistryUnreachable as error:
            if isinstance(error, NotTrusted) or not self._may_be_plain(self.place.host):
                raise
            url = f"http://{self.place.host}/v2/"
            try:
                self._greet(url)
            except RegistryUnreachable as plain:
                raise (plain if isinstance(error, NotTls) else error) from None
        return url.rstrip("/")

    def _greet(self, url: str) -> None:
        response = self._http.send(Request(url))
        if response.status == 401:
            self._log_in(response, self._auth.header)
            return
        response.close()
        if response.status == 404 and not response.header("Docker-Distribution-Api-Version"):
            message = f"{self.place.host} answers, though not as a registry"
            raise RegistryUnreachable(message)

    def _expect(self, response: Response, statuses: tuple[int, ...], what: str) -> None:
        if response.status in statuses:
            return
        code = _code_of(response)
        if response.status in (401, 403):
            raise self._auth.refusal(what)
        said = f" ({code})" if code else ""
        raise RegistryFailed(f"{self.place.host} answers {response.status}{said} for {what}")

    def _unknown(self, wanted: str) -> ImageUnknown:
        """Names the tags that there are, if the registry tells."""
        separator = "@" if ":" in wanted else ":"
        message = f"{self.place.registry} has no image {self.place.repository}{separator}{wanted}"
        tags = self._tags()
        if tags:
            return ImageUnknown(message, hint=f"it has {', '.join(tags)}")
        return ImageUnknown(message)

    def _tags(self) -> list[str]:
        try:
            response = self._get("tags/list?n=8", {})
            if response.status != 200:
                response.close()
                return []
            found = parse_json(response.document(), "").get("tags")
        except SourceError:
            return []
        tags = found if isinstance(found, list) else []
        return [tag for tag in tags[:8] if isinstance(tag, str) and tag.isprintable()]


def _code_of(response: Response) -> str:
    """The registry's own word for what is wrong. Its other text may repeat what we have sent."""
    try:
        errors = parse_json(response.document(), "").get("errors")
        code = errors[0]["code"] if isinstance(errors, list) else ""
    except (SourceError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _starts_at(response: Response, position: int) -> bool:
    return response.header("Content-Range").startswith(f"bytes {position}-")


def _skip(response: Response, count: int) -> None:
    """Past what is known already: this registry does not know ranges."""
    buffer = memoryview(bytearray(min(count, 1 << 20)))
    while count and (skipped := response.readinto(buffer[:count])):
        count -= skipped
