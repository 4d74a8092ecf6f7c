"""Encoding and parsing, beside `cryptography` where it does the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.x509 import load_der_x509_certificate, ocsp

from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.names import build_name
from service.wire._wire import parse_head
from signer._native import sm2
from status.request import parse_request

pytestmark = pytest.mark.benchmark(group="codecs")
Timed = Callable[..., Any]
KEY = sm2.PrivateKey.from_bytes(bytes(range(1, 33)))
NAME = build_name({"C": "CN", "O": "测试", "CN": "测试"}).public_bytes()
START = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = b"POST /ocsp HTTP/1.1\r\nHost: a.cn\r\nContent-Type: application/ocsp-request\r\nContent-Length: 84\r\n\r\n"


def tbs() -> bytes:
    return codec.tbs_certificate(
        serial=1 << 120,
        issuer=NAME,
        subject=NAME,
        not_before=START,
        not_after=START + timedelta(days=365),
        spki=codec.subject_public_key_info(KEY.public_key.to_bytes()),
        extensions=[],
    )


def question() -> bytes:
    """An OCSPRequest of one CertID with SM3 (RFC 6960, section 4.1.1)."""
    algorithm = der.sequence(der.oid("1.2.156.10197.1.401"))
    octets = der.tlv(0x04, bytes(32))
    return der.sequence(
        der.sequence(der.sequence(der.sequence(der.sequence(algorithm, octets, octets, der.integer(1 << 120)))))
    )


def test_certificate_written(timed: Timed) -> None:
    timed(tbs)


def test_certificate_read(timed: Timed) -> None:
    body = tbs()
    encoded = codec.join_signed(body, sm2.signature_to_der(KEY.sign(body)))
    timed(lambda: codec.public_key_of_certificate(encoded), lambda: load_der_x509_certificate(encoded).public_bytes)


def test_ocsp_request_read(timed: Timed) -> None:
    asked = question()
    timed(
        lambda: parse_request(asked, max_bytes=10_000, max_requests=10),
        lambda: ocsp.load_der_ocsp_request(asked).serial_number,
    )


def test_http_head_read(timed: Timed) -> None:
    timed(lambda: parse_head(HEAD))


def test_signature_in_der(timed: Timed) -> None:
    encoded = sm2.signature_to_der(KEY.sign_digest(bytes(32)))
    timed(lambda: sm2.signature_from_der(encoded))
