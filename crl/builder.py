"""Builds CRLs (RFC 5280 §5.1): plain values and encoded entries in, an unsigned CRL out.

Pure: no store, no clock, no key. What it writes is checked by `crl.check`, which shares no code with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core import oids
from core.asn1 import der
from core.asn1.distribution import delta_crl_indicator, freshest_crl, issuing_distribution_point
from core.asn1.x509 import SM3_WITH_SM2, Extension, encode_extensions
from core.clock import to_datetime
from crl._entries import Draft, Entries, Row

_KEY_IDENTIFIER_TAG = 0x80  # AuthorityKeyIdentifier.keyIdentifier [0] IMPLICIT (RFC 5280 §4.2.1.1)

#: removeFromCRL (RFC 5280 §5.3.1): only ever in delta CRLs.
REMOVE_FROM_CRL = 8


@dataclass(frozen=True, slots=True)
class CrlContents:
    """Everything that a CRL says but its entries. `issuer`: DER Name; `url`: the full CRL's, as in the certificates.

    Times in milliseconds; cut to seconds when written. base_number: None for a full CRL. has_delta: whether a full one
    points to its delta.
    """

    issuer: bytes
    issuer_key_identifier: bytes
    number: int
    url: str
    this_update_ms: int
    next_update_ms: int
    base_number: int | None = None
    has_delta: bool = False


def _extensions(contents: CrlContents) -> bytes:
    key_identifier = der.sequence(der.tlv(_KEY_IDENTIFIER_TAG, contents.issuer_key_identifier))
    extensions = [
        Extension(oids.AUTHORITY_KEY_IDENTIFIER, False, key_identifier),
        Extension(oids.CRL_NUMBER, False, der.integer(contents.number)),
    ]
    if contents.base_number is not None:
        extensions.append(delta_crl_indicator(contents.base_number))
    extensions.append(issuing_distribution_point(contents.url))
    if contents.has_delta and contents.base_number is None:
        extensions.append(freshest_crl(contents.url))
    return encode_extensions(extensions)


def make_draft(entries: Entries, contents: CrlContents, changes: Sequence[Row], kept_from_s: int) -> Draft:
    """TBSCertList, version 2, of `entries` with `changes` made to them, less those that end before `kept_from_s`.

    Raises ValueError as `Entries.draft`.
    """
    head = b"".join(
        (
            der.integer(1),
            SM3_WITH_SM2,
            contents.issuer,
            der.x509_time(to_datetime(contents.this_update_ms)),
            der.x509_time(to_datetime(contents.next_update_ms)),
        )
    )
    tail = der.tlv(der.context(0), _extensions(contents))
    return entries.draft(head, tail, SM3_WITH_SM2, list(changes), kept_from_s)


def removal(row: Row, released_at_ms: int) -> Row:
    """A row of a delta for a certificate that is good again."""
    serial, _, ends, _ = row
    return serial, released_at_ms // 1000 * 16 + REMOVE_FROM_CRL, ends, None
