"""Assembles to-be-signed certificates from templates that are cut out of what the ordinary builder makes.

A template holds what certificates of one profile, authority and CRL partition have in common. It is made of a real plan
by `CertificatePlan.tbs`, cut at the places that differ, and put to use only where it gives that plan's octets again; so
there is one place where certificates are described. Knows plans and bytes; not keys, the store or the clock.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from core.asn1 import der
from core.errors import QianyanError
from signer._native import sm3
from signer.issuance._template import Template
from signer.issuance.template import CertificatePlan

#: Templates that are kept: two for each profile and open partition are in use at a time.
_TEMPLATES_MAX: Final = 4_096
_SERIAL_BYTES: Final = 16
_POINT_BYTES: Final = 65
_IDENTIFIER_BYTES: Final = 20


def fits(plan: CertificatePlan) -> bool:
    """Whether a plan can be assembled: a holder's certificate with a status index and a serial of 16 octets."""
    return (
        plan.usage in ("sign", "encrypt")
        and plan.status is not None
        and 120 < plan.serial.bit_length() < 128
        and plan.path_length is None
    )


class Stencils:
    """Templates by what they have in common; one per process is enough."""

    def __init__(self) -> None:
        self._templates: dict[tuple[object, ...], Template] = {}

    def tbs(self, plan: CertificatePlan) -> tuple[bytes, bool]:
        """The TBSCertificate of a plan that `fits`, and whether its template was made for it just now."""
        begin, end = _time(plan.not_before), _time(plan.not_after)
        common = (
            plan.issuer,
            plan.authority_key_identifier,
            plan.usage,
            plan.key_usage,
            plan.extended_key_usage,
            plan.policies,
            plan.urls,
            None if plan.status is None else plan.status.oid,
            len(begin),
            len(end),
        )
        template = self._templates.get(common)
        if template is not None:
            return _assemble(template, plan, begin, end), False
        if len(self._templates) >= _TEMPLATES_MAX:
            self._templates.clear()
        template = cut(plan)
        tbs = _assemble(template, plan, begin, end)
        if tbs != plan.tbs():
            raise QianyanError("a template does not give back what it was made of", code="template")
        self._templates[common] = template
        return tbs, True


@lru_cache(maxsize=256)
def _time(at: datetime) -> bytes:
    """The contents of UTCTime or GeneralizedTime, which are told by their length."""
    return der.x509_time(at.astimezone(UTC))[2:]


def _assemble(template: Template, plan: CertificatePlan, begin: bytes, end: bytes) -> bytes:
    assert plan.status is not None
    return template.assemble(
        plan.serial.to_bytes(_SERIAL_BYTES, "big"),
        begin,
        end,
        plan.subject,
        plan.public_key,
        sm3.sm3(plan.public_key)[:_IDENTIFIER_BYTES],
        b"".join([extension.encode() for extension in plan.more]),
        plan.status.month,
        plan.status.index,
    )


def cut(plan: CertificatePlan) -> Template:
    """The template of what has everything but the request's own in common with `plan`."""
    assert plan.status is not None
    plain = replace(plan, more=())
    body = der.Reader(plain.tbs()).take(der.SEQUENCE)
    reader = der.Reader(body)
    version = reader.take_tlv(der.context(0))
    reader.take(der.INTEGER)
    algorithm, issuer = reader.take_tlv(der.SEQUENCE), reader.take_tlv(der.SEQUENCE)
    validity = reader.take_tlv(der.SEQUENCE)
    reader.take_tlv(der.SEQUENCE)  # the subject
    key_info = reader.take_tlv(der.SEQUENCE)
    extensions = der.Reader(reader.take(der.context(3))).take(der.SEQUENCE)
    reader.finish()
    begin, end = _time(plan.not_before), _time(plan.not_after)
    first, last = der.x509_time(plan.not_before), der.x509_time(plan.not_after)
    each = der.Reader(extensions)
    last_extension = b""
    while each:
        last_extension = each.take_tlv(der.SEQUENCE)  # the status index stands last
    identifier = sm3.sm3(plan.public_key)[:_IDENTIFIER_BYTES]
    place = extensions.index(identifier)
    return Template(
        before_serial=version + bytes((der.INTEGER, _SERIAL_BYTES)),
        before_times=algorithm + issuer + validity[: len(validity) - len(first) - len(last)] + first[: -len(begin)],
        between_times=last[: -len(end)],
        before_point=key_info[:-_POINT_BYTES],
        before_identifier=extensions[:place],
        after_identifier=extensions[place + _IDENTIFIER_BYTES : len(extensions) - len(last_extension)],
        status_oid=der.oid(plan.status.oid),
        time_begin=len(begin),
        time_end=len(end),
    )
