"""Writes OCSP responses (RFC 6960 §4.2).

Knows bytes and ASN.1; not the event loop, the clock, keys or the store. Times are cut to whole seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from core import oids
from core.asn1 import der
from core.asn1.x509 import SM3_WITH_SM2, Extension, encode_extensions
from core.clock import to_datetime
from core.model import CertificateState, CertificateStatus, RevocationReason


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (RFC 6960 §4.2.1). sigRequired (5) is never answered."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


_GOOD: Final = der.tlv(der.context(0, constructed=False))
_UNKNOWN: Final = der.tlv(der.context(2, constructed=False))
_REVOKED_TAG: Final = der.context(1)
_BASIC: Final = der.oid(oids.OCSP_BASIC)
_STATUS: Final = {status: der.enumerated(status) for status in ResponseStatus}


def error_response(status: ResponseStatus) -> bytes:
    """An OCSPResponse that says only why there is no answer. It is not signed (RFC 6960 §2.3)."""
    return der.sequence(_STATUS[status])


def responder_by_name(subject: bytes) -> bytes:
    """ResponderID byName, of a DER Name."""
    return der.tlv(der.context(1), subject)


def responder_by_key(public_key: bytes) -> bytes:
    """ResponderID byKey: "SHA-1 hash of responder's public key (excluding the tag and length fields)"."""
    digest = hashlib.sha1(public_key, usedforsecurity=False).digest()
    return der.tlv(der.context(2), der.octet_string(digest))


def _time(at_ms: int) -> bytes:
    return der.generalized_time(to_datetime(at_ms))


def _cert_status(status: CertificateStatus) -> bytes:
    """CertStatus. `held` is revoked with certificateHold; `unspecified` is left out (RFC 5280 §5.3.1)."""
    if status.state is None:
        return _UNKNOWN
    if status.state is CertificateState.GOOD:
        return _GOOD
    assert status.revoked_at_ms is not None
    reason = b""
    if status.reason is not None and status.reason is not RevocationReason.UNSPECIFIED:
        reason = der.tlv(der.context(0), der.enumerated(status.reason))
    return der.tlv(_REVOKED_TAG, _time(status.revoked_at_ms), reason)


def status_parts(status: CertificateStatus) -> tuple[bytes, bytes]:
    """CertStatus, and [1] singleExtensions or nothing.

    Where the store has an invalidity date it goes along as a single extension (RFC 6960 §4.4.5).
    """
    extensions = b""
    if status.invalidity_at_ms is not None:
        invalidity = Extension(oids.INVALIDITY_DATE, False, _time(status.invalidity_at_ms))
        extensions = der.tlv(der.context(1), encode_extensions([invalidity]))
    return _cert_status(status), extensions


def update_times(this_update_ms: int, next_update_ms: int) -> tuple[bytes, bytes]:
    """thisUpdate (producedAt is written alike), and [0] nextUpdate."""
    return _time(this_update_ms), der.tlv(der.context(0), _time(next_update_ms))


def certificates_field(certificate: bytes) -> bytes:
    """[0] certs of BasicOCSPResponse: the signer's alone."""
    return der.tlv(der.context(0), der.sequence(certificate))


def with_archive_cutoff(extensions: bytes, at_ms: int) -> bytes:
    """[1] singleExtensions (or nothing) with an archive cutoff added (RFC 6960 §4.4.4)."""
    cutoff = Extension(oids.OCSP_ARCHIVE_CUTOFF, False, _time(at_ms)).encode()
    others = b""
    if extensions:
        explicit = der.Reader(extensions).enter(der.context(1))
        others = explicit.take(der.SEQUENCE)
    return der.tlv(der.context(1), der.sequence(others, cutoff))


def single_response(
    cert_id: bytes,
    status: CertificateStatus,
    this_update_ms: int,
    next_update_ms: int,
    archive_cutoff_ms: int | None = None,
) -> bytes:
    """SingleResponse about `cert_id`, which is written as given."""
    cert_status, extensions = status_parts(status)
    if archive_cutoff_ms is not None:
        extensions = with_archive_cutoff(extensions, archive_cutoff_ms)
    return der.sequence(cert_id, cert_status, *update_times(this_update_ms, next_update_ms), extensions)


def response_data(
    responder_id: bytes, produced_at_ms: int, responses: Sequence[bytes], nonce: bytes | None = None
) -> bytes:
    """ResponseData, version 1: what gets signed. The nonce is repeated as it was asked (RFC 9654 §2.1)."""
    extensions = b""
    if nonce is not None:
        echo = Extension(oids.OCSP_NONCE, False, der.octet_string(nonce))
        extensions = der.tlv(der.context(1), encode_extensions([echo]))
    return der.sequence(responder_id, _time(produced_at_ms), der.sequence(*responses), extensions)


def ocsp_response(tbs: bytes, signature: bytes, certificate: bytes) -> bytes:
    """A successful OCSPResponse: `tbs` with its SM2 signature and the certificate of its signer."""
    basic = der.sequence(tbs, SM3_WITH_SM2, der.bit_string(signature), certificates_field(certificate))
    response_bytes = der.sequence(_BASIC, der.octet_string(basic))
    return der.sequence(_STATUS[ResponseStatus.SUCCESSFUL], der.tlv(der.context(0), response_bytes))
