"""The few things of a CRL that publication goes by, without reading its entries.

A CRL of a million entries is some 50 MB; parsing it would hold up whoever shares the interpreter.

Reads the structure of RFC 5280 §5.1 around the entries; judges nothing (`crl.check` did, before it was published).
"""

from __future__ import annotations

from typing import Final

from core import oids
from core.asn1 import der

_ONLY_CA: Final = der.context(2, constructed=False)
_CRL_NUMBER: Final = der.Reader(der.oid(oids.CRL_NUMBER)).take(der.OBJECT_IDENTIFIER)
_POINT: Final = der.Reader(der.oid(oids.ISSUING_DISTRIBUTION_POINT)).take(der.OBJECT_IDENTIFIER)


def _extensions(crl: bytes) -> dict[bytes, bytes]:
    """The CRL's extensions: OID contents → extension value. Raises Malformed."""
    tbs = der.Reader(crl).enter(der.SEQUENCE).enter(der.SEQUENCE)
    if tbs.peek() == der.INTEGER:
        tbs.take(der.INTEGER)
    tbs.take(der.SEQUENCE)  # signature
    tbs.take(der.SEQUENCE)  # issuer
    while tbs.peek() in (der.UTC_TIME, der.GENERALIZED_TIME):
        tbs.take(tbs.peek())
    if tbs.peek() == der.SEQUENCE:
        tbs.enter(der.SEQUENCE)  # the entries, passed over
    found: dict[bytes, bytes] = {}
    if not tbs:
        return found
    extensions = tbs.enter(der.context(0)).enter(der.SEQUENCE)
    while extensions:
        one = extensions.enter(der.SEQUENCE)
        name = one.take(der.OBJECT_IDENTIFIER)
        if one.peek() == der.BOOLEAN:
            one.take(der.BOOLEAN)
        found[name] = one.take(der.OCTET_STRING)
    return found


def number(crl: bytes) -> int | None:
    """The CRLNumber (RFC 5280 §5.2.3); None where it has none. Raises Malformed."""
    value = _extensions(crl).get(_CRL_NUMBER)
    return None if value is None else der.Reader(value).integer()


def only_authorities(crl: bytes) -> bool:
    """Whether it is about certificates of authorities alone (onlyContainsCACerts, §5.2.5). Raises Malformed."""
    value = _extensions(crl).get(_POINT)
    if value is None:
        return False
    point = der.Reader(value).enter(der.SEQUENCE)
    while point:
        tag = point.peek()
        if point.take(tag) == b"\xff" and tag == _ONLY_CA:
            return True
    return False
