"""Builds the to-be-signed CRL (RFC 5280 §5.1): plain values in, DER out.

Pure: no store, no clock, no key. What it writes is checked by `crl.check`, which shares no code with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core import oids
from core.asn1 import der
from core.asn1.distribution import issuing_distribution_point
from core.asn1.x509 import SM3_WITH_SM2, Extension, encode_extensions
from core.clock import to_datetime
from core.store.certificates import RevokedEntry
from crl.entries import encode_entries

_KEY_IDENTIFIER_TAG = 0x80  # AuthorityKeyIdentifier.keyIdentifier [0] IMPLICIT (RFC 5280 §4.2.1.1)


@dataclass(frozen=True, slots=True)
class CrlContents:
    """Everything that a full CRL says. `issuer`: DER Name; `url`: where the CRL is, as in the certificates.

    Times in milliseconds; cut to seconds when written. `entries`: ascending by serial.
    """

    issuer: bytes
    issuer_key_identifier: bytes
    number: int
    url: str
    this_update_ms: int
    next_update_ms: int
    entries: Sequence[RevokedEntry]


def _crl_extensions(contents: CrlContents) -> bytes:
    key_identifier = der.sequence(der.tlv(_KEY_IDENTIFIER_TAG, contents.issuer_key_identifier))
    return encode_extensions(
        [
            Extension(oids.AUTHORITY_KEY_IDENTIFIER, False, key_identifier),
            Extension(oids.CRL_NUMBER, False, der.integer(contents.number)),
            issuing_distribution_point(contents.url),
        ]
    )


def build_tbs(contents: CrlContents) -> bytes:
    """TBSCertList, version 2; revokedCertificates is left out where there are none (RFC 5280 §5.1.2.6)."""
    revoked = der.sequence(encode_entries(contents.entries)) if contents.entries else b""
    return der.sequence(
        der.integer(1),
        SM3_WITH_SM2,
        contents.issuer,
        der.x509_time(to_datetime(contents.this_update_ms)),
        der.x509_time(to_datetime(contents.next_update_ms)),
        revoked,
        der.tlv(der.context(0), _crl_extensions(contents)),
    )
