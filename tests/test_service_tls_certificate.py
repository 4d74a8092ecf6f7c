"""The private listener's certificate: its end is announced, and a reload shows the new one without a lost request."""

from __future__ import annotations

import http.client
import signal
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.running import Installation, Service

DEADLINE_S = 60


def replace_certificate(directory: Path, life: timedelta) -> bytes:
    """Puts a new certificate that ends so soon in place; returns its DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "successor")])
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "tls-key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "tls-cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate.public_bytes(Encoding.DER)


class Trusting(Service):
    """Takes whatever certificate the listener shows: which one it is, is looked at."""

    arguments = ("--workers", "2")

    def start(self) -> None:
        super().start()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def shown(self) -> bytes:
        """The certificate of a new connection, DER."""
        parts = urlsplit(self.private)
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((str(parts.hostname), int(parts.port or 0))))


def test_a_new_certificate_is_taken_without_a_lost_request(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var", tls="on").made()
    ended = threading.Event()
    statuses: list[int] = []
    failures: list[Exception] = []
    with Trusting(installation) as service:
        ready = service.call("GET", "/readyz").json["checks"]["tls"]
        assert ready["ok"]
        assert "SIGHUP" not in ready["detail"]

        def sign() -> None:
            value = {"key": "demo", "digest": "A" * 43 + "="}
            while not ended.is_set():
                try:
                    statuses.append(service.call("POST", "/v1/sign", value).status)
                except (OSError, http.client.HTTPException) as error:
                    failures.append(error)

        callers = [threading.Thread(target=sign, daemon=True) for _ in range(3)]
        for caller in callers:
            caller.start()
        successor = replace_certificate(installation.directory, timedelta(days=9))
        assert service.shown() != successor
        service.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + DEADLINE_S
        while not any('"reloaded"' in line for line in service.log):
            assert time.monotonic() < deadline, service.log[-5:]
            threading.Event().wait(0.1)
        ended.set()
        for caller in callers:
            caller.join(DEADLINE_S)
        assert not failures
        assert set(statuses) == {200}
        assert service.shown() == successor
        ready = service.call("GET", "/readyz").json["checks"]["tls"]
        assert ready["ok"]
        assert "SIGHUP" in ready["detail"]
        assert any("tls_certificate_ends_soon" in line for line in service.log)
        metrics = service.call("GET", "/metrics").body.decode()
        left = [line for line in metrics.splitlines() if line.startswith("qianyan_tls_certificate_seconds_left")]
        assert len(left) == 2
        assert all(8 * 86_400 < float(line.split()[-1]) <= 9 * 86_400 for line in left)


def test_one_that_has_ended_is_not_ready(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var", tls="on").made()
    replace_certificate(installation.directory, timedelta(seconds=-60))
    with Service(installation) as service:
        answer = service.get("/readyz")
        assert answer.status == 503
        assert not answer.json["checks"]["tls"]["ok"]
        assert "private.certificate" in answer.json["checks"]["tls"]["detail"]
