"""Where an authority's CRLs are: one place for the URL, and for the bytes that certificate and CRL must share.

A certificate's CRLDistributionPoints and its CRL's critical IssuingDistributionPoint carry the same
DistributionPointName, byte for byte (RFC 5280 §5.2.5; rule 7).
"""

from __future__ import annotations

from core import oids
from core.asn1 import der
from core.asn1.x509 import Extension

_URI_TAG = 0x86  # GeneralName [6] IA5String, implicit


def crl_url(public_url: str, authority_id: str, partition: int) -> str:
    """The URL of a partition's full CRL under `public_url` (no trailing slash)."""
    return f"{public_url}/crl/{authority_id}/{partition}.crl"


def delta_crl_url(url: str) -> str:
    """The URL of the delta CRL that belongs to the full CRL at `url`."""
    return url.removesuffix(".crl") + "-delta.crl"


def distribution_point_name(url: str) -> bytes:
    """DistributionPointName ::= [0] fullName: GeneralNames of one URI, with its [0] tag."""
    names = der.tlv(_URI_TAG, url.encode("ascii"))
    return der.tlv(der.context(0), der.tlv(der.context(0), names))


def crl_distribution_points(url: str) -> Extension:
    """CRLDistributionPoints of one point (RFC 5280 §4.2.1.13), not critical."""
    return Extension(oids.CRL_DISTRIBUTION_POINTS, False, der.sequence(der.sequence(distribution_point_name(url))))


def issuing_distribution_point(url: str) -> Extension:
    """IssuingDistributionPoint (RFC 5280 §5.2.5), critical, for all kinds of certificate and reason."""
    return Extension(oids.ISSUING_DISTRIBUTION_POINT, True, der.sequence(distribution_point_name(url)))


def freshest_crl(url: str) -> Extension:
    """FreshestCRL (RFC 5280 §4.2.1.15, §5.2.6), not critical: the delta CRL of the full CRL at `url`."""
    point = der.sequence(distribution_point_name(delta_crl_url(url)))
    return Extension(oids.FRESHEST_CRL, False, der.sequence(point))


def delta_crl_indicator(base_number: int) -> Extension:
    """DeltaCRLIndicator (RFC 5280 §5.2.4), critical: the number of the full CRL that the delta is for."""
    return Extension(oids.DELTA_CRL_INDICATOR, True, der.integer(base_number))
