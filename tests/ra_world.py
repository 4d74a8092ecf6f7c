"""People of a registration authority with certificates of an authority made here, and requests of every kind."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from core.clock import system_clock
from qianyan_ra import Certificate, Holder, Maker, Person, Request, SoftwareKey, csr_pem
from qianyan_ra._arithmetic import Arithmetic
from tests.signing_world import DAY_MS, Office, authority, certificate, usage

OFFICE: Office = authority("root", None, system_clock())
MAKER = Maker("east-01")
CREDIT = "91350100M000100Y43"
_serials = iter(range(0x8001, 0xFFFF))


def certified(public_key: bytes) -> bytes:
    """A signing certificate, DER."""
    now_ms = system_clock()
    extensions = [usage("digital_signature", "content_commitment")]
    serial = next(_serials)
    return certificate(serial, OFFICE, f"person {serial}", public_key, extensions, now_ms, now_ms + DAY_MS, OFFICE.key)


def person(arithmetic: Arithmetic = "native") -> Person:
    """Somebody with a key in software."""
    key = SoftwareKey.generate(arithmetic=arithmetic)
    return Person(Certificate.parse(certified(key.public_key)), key)


def pem(encoded: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(encoded).public_bytes(Encoding.PEM)


def every_kind(csr: bytes) -> list[Request]:
    """A request of each kind at least, with whatever each may have."""
    serial, at = "18c4:00ff", datetime(2026, 11, 20, tzinfo=UTC)
    return [
        MAKER.issue("organisation", csr, Holder("organisation", CREDIT, name="粤港"), region="4401", customer="tax"),
        MAKER.renew(serial),
        MAKER.renew(serial, csr=csr),
        MAKER.change(serial, csr_pem(csr)),
        MAKER.reissue(serial, csr, "lost"),
        MAKER.suspend(serial, ground="holder_request"),
        MAKER.resume(serial),
        MAKER.revoke(serial, "court_demand", invalidity_at=at),
        MAKER.unlock(serial),
        MAKER.recover(serial, "case-1", recipient="0102"),
        MAKER.recover_judicial(serial, "order-1", person().certificate.public_key),
    ]
