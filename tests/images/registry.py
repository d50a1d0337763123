"""Real docker-registry processes on loopback ports, each with storage of its own.

    with start_registry(folder) as registry:
        registry.push(f"oci:{layout}:latest", "team/train:1")
        open_image(registry.name("team/train:1"))

`user` asks for a password, `authority` for TLS, `settings` for anything else of its configuration.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt  # of paramiko
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.sshd import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "Authority",
    "Login",
    "Registry",
    "RegistryDoesNotStart",
    "missing_program",
    "skopeo",
    "start_registry",
]

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0


class RegistryDoesNotStart(Exception):
    """This machine has none, or it said why it does not run."""


class Login(NamedTuple):
    user: str
    password: str


@dataclass
class Registry:
    """`host`: its name and port. A restart keeps its port and what was pushed."""

    folder: Path
    host: str
    login: Login | None
    authority: Authority | None
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def port(self) -> int:
        return int(self.host.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http{'s' if self.authority else ''}://{self.host}"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def log(self) -> str:
        return (self.folder / "registry.log").read_text(errors="replace")

    def name(self, image: str) -> str:
        return f"{self.host}/{image}"

    def push(self, source: str, image: str, *options: str) -> None:
        """By skopeo. `source`: as it names images: oci:DIR:TAG, docker-archive:FILE."""
        login = [f"--dest-creds={self.login.user}:{self.login.password}"] if self.login else []
        skopeo(
            "copy",
            "--dest-tls-verify=false",
            *login,
            *options,
            source,
            f"docker://{self.name(image)}",
        )

    def stored_blob(self, digest: str) -> Path:
        """Where it keeps the bytes, for tests that spoil them."""
        hexadecimal = digest.partition(":")[2]
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / hexadecimal[:2] / hexadecimal / "data"

    def kill(self) -> None:
        """As a crash; `restart` brings it back."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.process = _start(self.folder)
        _wait_until_it_listens(self)

    def stop(self) -> None:
        """Idempotent."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


def skopeo(*words: str) -> str:
    """Returns its output. Raises RegistryDoesNotStart where there is none."""
    program = shutil.which("skopeo")
    if program is None:
        raise RegistryDoesNotStart("there is no skopeo: apt-get install skopeo")
    done = subprocess.run(
        [program, "--insecure-policy", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"skopeo {words[0]}: {done.stderr[-500:]}"
    return done.stdout


def missing_program() -> str | None:
    """The first that this machine lacks."""
    needed = ("docker-registry", "skopeo")
    return next((name for name in needed if shutil.which(name) is None), None)


@contextlib.contextmanager
def start_registry(
    folder: Path,
    *,
    login: Login | None = None,
    authority: Authority | None = None,
    host: str = "127.0.0.1",
    settings: Mapping[str, Any] = {},
) -> Iterator[Registry]:
    """`folder` is made. `settings`: top-level sections of its configuration, beside or instead of
    ours. Raises RegistryDoesNotStart."""
    if shutil.which("docker-registry") is None:
        raise RegistryDoesNotStart("there is no docker-registry: apt-get install docker-registry")
    folder.mkdir(parents=True)
    port = free_port()
    config = _config(folder, port, login, authority, host) | dict(settings)
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    registry = Registry(folder, f"{host}:{port}", login, authority, _start(folder))
    try:
        _wait_until_it_listens(registry)
        yield registry
    finally:
        registry.stop()


class Authority:
    """A certificate authority of the test's own. `ca`: its certificate, as a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "devloop tests")])
        signed = _certificate(self._name, self._key.public_key())
        signed = signed.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        signed = signed.add_extension(key_id, False)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self._sign(signed))

    def issue(self, host: str, *, expired: bool = False) -> tuple[Path, Path]:
        """A certificate for `host` and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's server")])
        made = _certificate(name, key.public_key(), expired=expired)
        made = made.add_extension(x509.SubjectAlternativeName([_general_name(host)]), False)
        certificate = self._folder / f"{host}{'-expired' if expired else ''}.crt"
        certificate.write_bytes(self._sign(made))
        key_file = certificate.with_suffix(".key")
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, key_file

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        signed = builder.issuer_name(self._name).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def _certificate(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * day)
        .not_valid_after(now - day if expired else now + day)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _config(
    folder: Path, port: int, login: Login | None, authority: Authority | None, host: str
) -> dict[str, Any]:
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of the tests"}
    if authority is not None:
        certificate, key = authority.issue(host)
        http["tls"] = {"certificate": str(certificate), "key": str(key)}
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "storage")},
            "delete": {"enabled": True},
        },
        "http": http,
    }
    if login is not None:
        hashed = bcrypt.hashpw(login.password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{login.user}:{hashed}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    return config


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "registry.log").open("ab") as log:
        return subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )


def _wait_until_it_listens(registry: Registry) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _accepts(registry.port):
        if registry.process.poll() is not None or time.monotonic() > deadline:
            raise RegistryDoesNotStart(f"docker-registry does not start: {registry.log[-500:]}")
        time.sleep(0.01)


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
