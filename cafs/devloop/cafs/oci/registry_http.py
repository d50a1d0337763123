"""HTTP to registries: connections, TLS, deadlines, and patience with those that say "later".

Owns what an answer that does not come means. Knows neither tokens nor manifests. urllib3 is used
here only. Its exceptions do not leave: they hold addresses, and addresses may hold signatures.
"""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import random
import ssl
import time
import urllib.parse
import urllib.request
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from devloop.cafs.version import VERSION

from .source_errors import RegistryBusy, RegistryFailed, RegistryUnreachable, SourceError
from .verified import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .source import RegistryOptions

__all__ = [
    "Http",
    "LinkLost",
    "NotReached",
    "NotTls",
    "NotTrusted",
    "Patience",
    "Request",
    "Response",
    "is_loopback",
]

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0  # without a byte
DOCUMENT_TIMEOUT_S = 60.0  # for all of a manifest or a token
MOST_CONNECTIONS = 16  # to one host
# Slower than this is no link: bytes in a time that is spent waiting for them.
_SLOWEST = (4096, READ_TIMEOUT_S)
_LATER = (429, 500, 502, 503, 504)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0


class LinkLost(RegistryUnreachable):
    """No answer, or not all of it. Another try may do better."""


class NotReached(RegistryUnreachable):
    """Nobody is there. It may be only for now, if somebody was there before."""


class NotTls(RegistryUnreachable):
    """What answers does not speak TLS."""


class NotTrusted(RegistryUnreachable):
    """Its certificate is not one that was signed for it by anybody we know."""


class Request(NamedTuple):
    url: str
    headers: Mapping[str, str] = {}
    form: str | None = None  # posted


class Patience:
    """How often and how long to try again. `closed`: ends all waiting."""

    def __init__(self, patience_s: float, closed: Event) -> None:
        self._left_s = patience_s
        self._closed = closed
        self._next_s = _FIRST_WAIT_S

    def wait(self, error: SourceError, least_s: float = 0.0) -> None:
        """Raises `error` when no patience is left, or nobody wants the answer any more."""
        wait_s = max(least_s, self._next_s * random.uniform(0.75, 1.25))
        self._next_s = min(2 * self._next_s, _LONGEST_WAIT_S)
        self._left_s -= wait_s
        if self._left_s < 0 or self._closed.wait(wait_s):
            # Others who wait for lost links have nothing more to wait for.
            gave_up = isinstance(error, LinkLost)
            raise RegistryUnreachable(str(error), hint=error.hint) if gave_up else error


class Response:
    """An answer whose body has not been read. Its methods raise LinkLost."""

    def __init__(self, host: str, answer: urllib3.BaseHTTPResponse) -> None:
        self._host = host
        self._answer = answer
        self._waited_s = 0.0
        self._bytes = 0
        self.status = answer.status

    def header(self, name: str) -> str:
        return self._answer.headers.get(name, "")

    def headers(self, name: str) -> list[str]:
        return self._answer.headers.getlist(name)

    def readinto(self, buffer: memoryview) -> int:
        """0 where the body ends as it should."""
        started = time.monotonic()
        try:
            data = self._answer.read1(len(buffer), decode_content=False)
        except (HTTPError, OSError) as error:
            self.close()
            raise _unreachable(error, self._host) from None
        self._watch(len(data), time.monotonic() - started)
        buffer[: len(data)] = data
        return len(data)

    def document(self) -> bytes:
        """The whole body. Raises RegistryFailed when it is too large, or comes too slowly."""
        deadline = time.monotonic() + DOCUMENT_TIMEOUT_S
        parts, size_bytes = [], 0
        buffer = bytearray(64 << 10)
        try:
            while count := self.readinto(memoryview(buffer)):
                parts.append(bytes(buffer[:count]))
                size_bytes += count
                if size_bytes > MAX_DOCUMENT_BYTES or time.monotonic() > deadline:
                    raise RegistryFailed(f"{self._host} answers too much, or too slowly")
        finally:
            self.close()
        return b"".join(parts)

    def close(self) -> None:
        """A connection whose answer was read to its end is used again."""
        with contextlib.suppress(HTTPError, OSError):
            self._answer.close()

    def _watch(self, count: int, waited_s: float) -> None:
        self._bytes += count
        self._waited_s += waited_s
        if self._waited_s > _SLOWEST[1]:
            if self._bytes < _SLOWEST[0]:
                self.close()
                raise LinkLost(f"{self._host} sends {self._bytes} bytes in {self._waited_s:.0f} s")
            self._bytes, self._waited_s = 0, 0.0


class Http:
    """For any thread. Certificates are verified, but those of the `insecure` hosts."""

    def __init__(self, options: RegistryOptions) -> None:
        self._insecure = frozenset(options.insecure)
        self._certs_dirs = [Path(folder) for folder in options.certs_dirs]
        self._patience_s = options.patience_s
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._lock = Lock()
        self._closed = Event()

    def close(self) -> None:
        """Ends all waiting. Idempotent."""
        self._closed.set()
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def patience(self) -> Patience:
        return Patience(self._patience_s, self._closed)

    def is_insecure(self, host: str) -> bool:
        return host in self._insecure

    def may_be_plain(self, host: str) -> bool:
        """As docker has it: what never leaves the machine needs no TLS."""
        return host in self._insecure or is_loopback(host)

    def send(self, request: Request) -> Response:
        """Any answer but "later". Raises RegistryUnreachable, RegistryBusy, RegistryFailed."""
        patience = self.patience()
        host = urlsplit(request.url).netloc
        while True:
            try:
                response = self.send_once(request)
            except LinkLost as error:
                patience.wait(error)
                continue
            if response.status not in _LATER:
                return response
            response.close()
            wait_s = _retry_after_s(response.header("Retry-After"))
            patience.wait(_later(host, response.status, wait_s), wait_s)

    def again(self, action: Callable[[], T]) -> T:
        """What `action` returns when no link was lost in it."""
        patience = self.patience()
        while True:
            try:
                return action()
            except LinkLost as error:
                patience.wait(error)

    def send_once(self, request: Request) -> Response:
        """Raises RegistryUnreachable: LinkLost and NotTls say more."""
        if self._closed.is_set():
            raise RegistryUnreachable("the image was closed")
        host = urlsplit(request.url).netloc
        headers = {"User-Agent": f"devloop/{VERSION}", **request.headers}
        if request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            answer = self._manager(request.url).request(
                "GET" if request.form is None else "POST",
                request.url,
                body=request.form,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            )
        except (HTTPError, OSError, ValueError) as error:
            raise _unreachable(error, host) from None
        return Response(host, answer)

    def _manager(self, url: str) -> urllib3.PoolManager:
        scheme, host = urlsplit(url)[:2]
        with self._lock:
            if (made := self._managers.get(f"{scheme}:{host}")) is None:
                made = self._managers[f"{scheme}:{host}"] = self._make_manager(scheme, host)
            return made

    def _make_manager(self, scheme: str, host: str) -> urllib3.PoolManager:
        context = self._tls_context(host) if scheme == "https" else None
        name = urlsplit(f"//{host}").hostname or ""
        proxy = urllib.request.getproxies().get(scheme)
        if proxy is None or is_loopback(host) or urllib.request.proxy_bypass(name):
            return urllib3.PoolManager(maxsize=MOST_CONNECTIONS, ssl_context=context)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        headers = None
        if parts.username:
            login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
            headers = urllib3.make_headers(proxy_basic_auth=login)
        url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return urllib3.ProxyManager(
            url, maxsize=MOST_CONNECTIONS, ssl_context=context, proxy_headers=headers
        )

    def _tls_context(self, host: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if host in self._insecure:
            urllib3.disable_warnings(InsecureRequestWarning)  # the user's own wish, by name
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for folder in self._certs_dirs:
            _add_certificates(context, folder / host)
        return context


def is_loopback(host: str) -> bool:
    """`host`: with or without a port."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _add_certificates(context: ssl.SSLContext, folder: Path) -> None:
    """Docker's way: *.crt are authorities, *.cert with *.key is who we are."""
    try:
        for authority in sorted(folder.glob("*.crt")):
            context.load_verify_locations(authority)
        for certificate in sorted(folder.glob("*.cert")):
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RegistryUnreachable(
            f"the certificates in {folder} cannot be used: {reason}",
            hint="each *.crt is a certificate in PEM; each *.cert has its *.key",
        ) from None


def _retry_after_s(text: str) -> float:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, at - time.time())


def _later(host: str, status: int, wait_s: float) -> RegistryBusy | RegistryFailed:
    if status == 429:
        wait = f", for {wait_s:,.0f} s more" if wait_s else ""
        return RegistryBusy(f"{host} takes no more requests from here (429){wait}")
    return RegistryFailed(f"{host} answers {status}")


def _unreachable(error: Exception, host: str) -> RegistryUnreachable:
    """What to tell of it, and whether another try may do better. Nothing of urllib3's own text:
    it has addresses in it."""
    if isinstance(error, ProxyError):
        return RegistryUnreachable(
            f"the proxy on the way to {host} does not work",
            hint="check HTTPS_PROXY and NO_PROXY on the machine that pulls",
        )
    if isinstance(error, NameResolutionError):
        return NotReached(
            f"there is no host {host}", hint="check the registry's name, and DNS on this machine"
        )
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return NotReached(f"{host} does not answer within {CONNECT_TIMEOUT_S:g} s")
    if isinstance(error, NewConnectionError):
        return NotReached(f"{host} cannot be reached: {_reason(error)}")
    if (tls := _tls_error(error)) is not None:
        return _tls_unreachable(tls, host)
    if isinstance(error, (LocationValueError, ValueError)):
        return RegistryUnreachable(f'"{host}" is no address of a registry')
    if isinstance(error, ReadTimeoutError):
        return LinkLost(f"{host} has said nothing for {READ_TIMEOUT_S:g} s")
    return LinkLost(f"the connection to {host} was lost: {_reason(error)}")


def _tls_unreachable(error: ssl.SSLError, host: str) -> RegistryUnreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotTrusted(
            f"the certificate of {host} is not to be trusted: {error.verify_message}",
            hint=f"its authority belongs into {_certs_of(host)} as ca.crt; "
            "or name the registry as insecure",
        )
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return LinkLost(f"the connection to {host} was lost in the middle of TLS")
    if error.reason in _NOT_TLS:
        return NotTls(
            f"{host} does not speak TLS",
            hint="if it is a registry of plain HTTP that you trust, name it as insecure",
        )
    return RegistryUnreachable(f"TLS with {host} fails: {error.reason or 'no reason given'}")


def _certs_of(host: str) -> str:
    return f"/etc/containers/certs.d/{host}"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Wherever in its causes it is."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLError):
            return one
    return None


def _reason(error: BaseException) -> str:
    for one in _chain(error):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return "it ended early"


def _chain(error: BaseException | None) -> Sequence[BaseException]:
    found: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop()
        if one is not None and one not in found:
            found.append(one)
            todo += [one.__cause__, one.__context__]
            todo += [a for a in one.args if isinstance(a, BaseException)]
    return found
