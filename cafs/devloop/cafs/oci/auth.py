"""How a registry is shown who asks: its challenge, and the Authorization header that answers it.

Owns the header of one registry and repository, for all threads. Sends nothing itself: it is given
what asks the token server. No secret is in an error, nor in any text that this makes for people.
https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/
"""

from __future__ import annotations

import base64
import re
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlencode

from .manifest import parse_json
from .source_errors import AccessRefused, ImageCorrupt, RegistryFailed
from .verified import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .credentials import Credentials

__all__ = ["Authenticator", "Challenge", "TokenServer", "parse_challenges"]

CLIENT_ID = "devloop"
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+(?=[A-Za-z])|\s*$)")
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Challenge(NamedTuple):
    """One of a WWW-Authenticate header; `scheme` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class TokenServer(Protocol):
    def ask(self, url: str, headers: Mapping[str, str], form: str | None) -> tuple[int, bytes]:
        """Status and body. With a form it is posted. Raises SourceError."""


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """RFC 9110, 11.6.1: several headers, or several challenges in one."""
    found = []
    for header in headers:
        masked = re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: '"' + "x" * (len(m[0]) - 2) + '"', header)
        starts = list(_SCHEME.finditer(masked))
        ends = [m.start() for m in starts[1:]] + [len(header)]
        for match, end in zip(starts, ends, strict=True):
            found.append(Challenge(match[1].lower(), _parameters(header[match.end() : end])))
    return found


def _parameters(text: str) -> dict[str, str]:
    return {
        match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(text)
    }


class Authenticator:
    """`trouble`: why there are no credentials, if there is a reason worth telling."""

    def __init__(
        self,
        server: TokenServer,
        registry: str,
        repository: str,
        credentials: Credentials | None,
        trouble: str = "",
    ) -> None:
        self._server = server
        self._registry = registry
        self._repository = repository
        self._credentials = credentials
        self._trouble = trouble
        self._lock = Lock()
        self._header = ""
        if credentials is not None and credentials.registry_token:
            self._header = f"Bearer {credentials.registry_token}"

    @property
    def user(self) -> str:
        """Who asks, for people; empty for nobody in particular."""
        if self._credentials is None:
            return ""
        return self._credentials.user or "the user of the token"

    @property
    def header(self) -> str:
        """Empty when nothing is to be shown."""
        return self._header

    def answer(self, challenges: Sequence[Challenge], shown: str) -> None:
        """Makes a header for what a 401 asks for. `shown`: the header that was refused.

        Returns at once when another thread has made a new one meanwhile. Raises AccessRefused.
        """
        with self._lock:
            if self._header != shown:
                return
            self._header = self._make(challenges, shown)

    def refusal(self, what: str) -> AccessRefused:
        """That `what` is not to be had, by what we have shown. 401 and 403 look alike: registries
        do not tell strangers which images there are."""
        if self._credentials is None:
            hint = f"check the name; if it is private, `docker login {self._registry}`"
            if self._trouble:
                hint = f"{hint} (no password was used: {self._trouble})"
            return AccessRefused(f"there is no {what}, or it is not for everybody", hint=hint)
        hint = f"check the name, and that {self.user} may read it"
        return AccessRefused(f"there is no {what}, or {self.user} may not read it", hint=hint)

    def _make(self, challenges: Sequence[Challenge], shown: str) -> str:
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if (bearer := by_scheme.get("bearer")) is not None:
            return f"Bearer {self._fetch_token(bearer)}"
        if "basic" not in by_scheme:
            names = ", ".join(sorted(by_scheme)) or "nothing"
            raise AccessRefused(f"{self._registry} wants a login of a kind not known here: {names}")
        if self._credentials is None or not self._credentials.password:
            raise self._login_needed()
        header = self._basic(self._credentials)
        if header == shown:
            raise self._wrong_password()
        return header

    def _fetch_token(self, challenge: Challenge) -> str:
        """One that anybody may have, where we have no credentials."""
        realm = challenge.parameters.get("realm", "")
        fields = {
            "service": challenge.parameters.get("service", ""),
            "scope": challenge.parameters.get("scope") or f"repository:{self._repository}:pull",
        }
        status, body = self._ask(realm, {k: v for k, v in fields.items() if v})
        if status in (400, 401, 403):
            raise self._login_needed() if self._credentials is None else self._wrong_password()
        if status != 200 or len(body) > MAX_DOCUMENT_BYTES:
            raise RegistryFailed(f"the token server of {self._registry} answers {status}")
        return self._token_in(body)

    def _ask(self, realm: str, fields: dict[str, str]) -> tuple[int, bytes]:
        known = self._credentials
        if known is not None and known.identity_token:
            token = {"grant_type": "refresh_token", "refresh_token": known.identity_token}
            form = urlencode({**fields, **token, "client_id": CLIENT_ID})
            return self._server.ask(realm, {}, form)
        headers = {}
        if known is not None and known.password:
            headers["Authorization"] = self._basic(known)
            fields = {**fields, "account": known.user}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}"
        return self._server.ask(url, headers, None)

    def _token_in(self, body: bytes) -> str:
        try:
            answer = parse_json(body, "")
        except ImageCorrupt:
            answer = {}
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryFailed(f"the token server of {self._registry} gives no token")
        return token

    def _basic(self, credentials: Credentials) -> str:
        pair = f"{credentials.user}:{credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def _login_needed(self) -> AccessRefused:
        hint = f"`docker login {self._registry}` or `skopeo login` on the machine that pulls"
        if self._trouble:
            hint = f"{hint} (no password was used: {self._trouble})"
        return AccessRefused(f"{self._registry} wants a login for {self._repository}", hint=hint)

    def _wrong_password(self) -> AccessRefused:
        hint = f"`docker login {self._registry}` again, on the machine that pulls"
        return AccessRefused(f"{self._registry} refuses the password of {self.user}", hint=hint)
