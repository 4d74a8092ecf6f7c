"""Certificates of callers: read from the connection or from a proxy's header, told apart by digest.

Knows DER through `cryptography`; not who is registered. The chain was checked by whoever ended TLS, before a byte of
the request was read; the validity period is kept here, to be looked at with each request.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from core.clock import from_datetime
from core.errors import Denied, Malformed, SettingsError
from core.store.callers import MatchedBy

#: A certificate in a header; aiohttp's own bound on a header field is about as much.
_HEADER_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class Presented:
    """What identifies a certificate. Digests: SM3 over what has to be equal, 32 bytes. Times in milliseconds."""

    by_fingerprint: bytes
    by_subject: bytes
    not_before_ms: int
    not_after_ms: int

    def match_digest(self, matched_by: MatchedBy) -> bytes:
        """What a registration keeps."""
        return self.by_fingerprint if matched_by == "fingerprint" else self.by_subject


def fingerprint(der: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    """The digest of a certificate."""
    state = hashes.Hash(algorithm)
    state.update(der)
    return state.finalize()


def _tagged(tag: bytes, *parts: bytes) -> bytes:
    """SM3 over parts with their lengths, so that no two lists of parts look alike."""
    state = hashes.Hash(hashes.SM3())
    state.update(tag)
    for part in parts:
        state.update(len(part).to_bytes(4, "big") + part)
    return state.finalize()


def identify(der: bytes) -> Presented:
    """Raises Malformed (code "certificate") where it is no certificate."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer, subject = certificate.issuer.public_bytes(), certificate.subject.public_bytes()
        before, after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise Malformed("the client's certificate cannot be read", code="certificate") from error
    return Presented(
        _tagged(b"fingerprint", der), _tagged(b"subject", issuer, subject), from_datetime(before), from_datetime(after)
    )


def read_file(path: Path) -> bytes:
    """The DER of the one certificate in a PEM or DER file. Raises SettingsError, Malformed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}", code="certificate_unreadable") from error
    if b"-----BEGIN" not in content:
        identify(content)
        return content
    try:
        return x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
    except ValueError as error:
        raise Malformed(f"{path} holds no certificate", code="certificate") from error


def from_header(text: str) -> bytes | None:
    """The DER in a proxy's header: percent-encoded PEM (nginx), or RFC 9440 (`:base64:`); None where it is empty.

    Raises Denied (code "certificate_header") for anything else: the proxy is set up wrongly, and must not be trusted.
    """
    text = text.strip()
    if not text:
        return None
    try:
        if len(text) > _HEADER_MAX:
            raise ValueError
        if text.startswith(":") and text.endswith(":") and len(text) > 1:
            return base64.b64decode(text[1:-1], validate=True)
        pem = unquote_to_bytes(text)
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except (ValueError, binascii.Error) as error:
        raise Denied("the proxy's certificate header cannot be read", code="certificate_header") from error


def trust(context: ssl.SSLContext, mode: str, authorities: Sequence[Path]) -> None:
    """Has a server's context ask for certificates under these authorities. Raises SettingsError naming the file."""
    if mode == "off":
        return
    for path in authorities:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"private.client_ca: {path} holds no certificates that can be used: {error}", code="client_ca"
            ) from error
    context.verify_mode = ssl.CERT_REQUIRED if mode == "required" else ssl.CERT_OPTIONAL
