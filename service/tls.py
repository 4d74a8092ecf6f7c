"""The private listener's own certificate: made for installations that have none yet, and watched until its end.

ECDSA P-256, not SM2: it secures the channel with what TLS clients everywhere have, and says nothing of the SM2
hierarchy. The authority's key signs one certificate and is forgotten, so that nobody can make another under it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.clock import Clock, from_datetime
from core.errors import SettingsError, Unavailable

#: From when on the listener's certificate is said to be near its end.
WARN_DAYS: Final = 30
_REPLACE: Final = "replace private.certificate and private.key, then send SIGHUP (or restart, without --workers)"
_LIFE: Final = timedelta(days=825)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM of the authority's certificate, the listener's chain, and the listener's key."""

    authority: bytes
    chain: bytes
    key: bytes


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        own: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        own = x509.DNSName(host)
    return names if own in names else [*names, own]


def make_tls(host: str) -> TlsMaterial:
    """A throw-away authority and one server certificate for `host` and this machine, good for 825 days."""
    not_before = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("qianyan private listener authority")
    base = x509.CertificateBuilder().not_valid_before(not_before).not_valid_after(not_before + _LIFE)
    authority = (
        base.subject_name(authority_name)
        .issuer_name(authority_name)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        base.subject_name(_name("qianyan private listener"))
        .issuer_name(authority_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    authority_pem = authority.public_bytes(Encoding.PEM)
    return TlsMaterial(
        authority_pem,
        certificate.public_bytes(Encoding.PEM) + authority_pem,
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class ListenerCertificate:
    """The certificate that the private listener shows: until when it is good. Read once, as the listener does."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self._clock = clock
        try:
            self.not_after_ms = from_datetime(x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the private listener's certificate {file} cannot be read: {error}", code="tls"
            ) from error

    def seconds_left(self) -> int:
        """Until it expires; negative past that."""
        return (self.not_after_ms - self._clock()) // 1000

    def note(self) -> str:
        """What /readyz says of it. Raises Unavailable (code "tls_expired") past its end."""
        left_s = self.seconds_left()
        if left_s <= 0:
            raise Unavailable(f"the private listener's certificate expired: {_REPLACE}", code="tls_expired")
        days = left_s // 86_400
        return f"valid for {days} days more" + (f": {_REPLACE}" if days < WARN_DAYS else "")
