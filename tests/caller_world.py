"""An authority for callers' certificates, and callers that show them."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from core.errors import QianyanError
from service.cli import cli
from tests.running import PATIENCE_S, Answer, Installation, Ran, Service

SIGN = {"key": "demo", "digest": base64.b64encode(bytes(32)).decode()}


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Client:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


@dataclass
class ClientAuthority:
    """Issues certificates to callers."""

    directory: Path
    name: str = "callers' authority"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    _count: int = 0

    @property
    def file(self) -> Path:
        """The authority's own certificate, PEM."""
        path = self.directory / f"{self.name.replace(' ', '-')}.pem"
        if not path.exists():
            path.write_bytes(self._build(self.name, self._key.public_key(), timedelta(days=1), ca=True))
        return path

    def issue(self, common_name: str, *, life: timedelta = timedelta(days=1), use_rsa: bool = False) -> Client:
        """A new key and certificate."""
        self._count += 1
        key = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
        made = Client(self.directory / f"{self._count}.pem", self.directory / f"{self._count}-key.pem")
        made.certificate.write_bytes(self._build(common_name, key.public_key(), life, ca=False))
        made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return made

    def _build(self, name: str, public: Any, life: timedelta, *, ca: bool) -> bytes:
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Connection:
    """A kept-alive connection to the private listener, with a certificate or without."""

    def __init__(self, service: Service, client: Client | None = None) -> None:
        parts = urlsplit(service.private)
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(service.installation.directory / "tls-ca.pem"))
            if client is not None:
                context.load_cert_chain(client.certificate, client.key)
            self._http: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, context=context, timeout=PATIENCE_S
            )
        else:
            self._http = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)

    def sign(self, **headers: str) -> Answer:
        """POST /v1/sign. Raises OSError where the connection was closed: it is never opened anew behind our back."""
        return self.call("POST", "/v1/sign", SIGN, **headers)

    def call(self, method: str, path: str, value: Any = None, **headers: str) -> Answer:
        """One request; `Authorization` and the like as keywords, - written as _."""
        body = None if value is None else json.dumps(value).encode()
        self._http.auto_open = 0 if self._http.sock is not None else 1
        self._http.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        return self.answer()

    def octets(self, path: str, body: bytes, **headers: str) -> Answer:
        """POST of octets."""
        headers["Content-Type"] = "application/octet-stream"
        self._http.auto_open = 0 if self._http.sock is not None else 1
        self._http.request("POST", path, body, headers)
        return self.answer()

    def answer(self) -> Answer:
        """The answer to what was sent."""
        response = self._http.getresponse()
        return Answer(response.status, response.headers, response.read())

    def send(self, data: bytes) -> None:
        """The body of what was begun."""
        self._http.send(data)

    def begin(self, method: str, path: str, length: int, **headers: str) -> None:
        """A request's headers, and nothing of its body of so many octets."""
        self._http.putrequest(method, path)
        for name, text in {**headers, "Content-Length": str(length)}.items():
            self._http.putheader(name, text)
        self._http.endheaders()

    def close(self) -> None:
        """Closes it."""
        self._http.close()


def code(answer: Answer) -> tuple[int, str]:
    """Status and code of a problem document."""
    return answer.status, str(answer.json["code"])


def succeed(ran: Ran) -> Ran:
    """The same, which must have succeeded."""
    assert ran.status == 0, ran.stderr
    return ran


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"Authorization": f"Bearer {token}"}


def command(installation: Installation, *arguments: str | Path) -> Ran:
    """A `qianyan` command on the installation, within this process: a new one takes a second each."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--config", str(installation.config)])
    stderr = done.stderr
    if isinstance(done.exception, QianyanError):
        stderr = f"qianyan: {done.exception.detail}\n"
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, stderr)


def make_token(installation: Installation, name: str, *more: str) -> str:
    """`qianyan token create`, with scope sign unless more says another."""
    scope = [] if "--scope" in more else ["--scope", "sign"]
    return succeed(command(installation, "token", "create", name, *scope, *more)).stdout.strip()
