"""Lint: a to-be-signed certificate that does not say what was planned never reaches the authority's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from core import oids
from core.asn1 import der
from core.asn1 import x509 as codec
from core.asn1.x509 import Extension
from core.store import certificates
from signer._native import sm2
from signer.issuance import template
from signer.issuance.lint import Linter, LintFailure
from signer.issuance.template import CertificatePlan, StatusIndex, Urls
from tests.issuance_support import ORGANISATION, Request, installation, raw_name, subject_of

NOW = datetime(2026, 11, 20, 7, 0, 0, tzinfo=UTC)
PLAN = CertificatePlan(
    usage="sign",
    serial=0x3F << 120 | 12345,
    issuer=subject_of({"C": "CN", "CN": "签发"}),
    authority_key_identifier=bytes(range(20)),
    subject=subject_of(ORGANISATION),
    public_key=sm2.PrivateKey.generate().public_key.to_bytes(),
    not_before=NOW,
    not_after=NOW + timedelta(days=365),
    key_usage=frozenset({"digital_signature", "content_commitment"}),
    extended_key_usage=("1.3.6.1.5.5.7.3.2",),
    policies=("2.16.156.1.1",),
    urls=Urls("http://a.cn/crl/issuing/0.crl", "http://a.cn/ocsp", "http://a.cn/ca/issuing.cer", delta=True),
    status=StatusIndex(oids.STATUS_INDEX_DEFAULT, 2027 * 12 + 10, 7),
    more=(Extension(oids.TAXATION_NUMBER, False, der.tlv(0x13, b"1")),),
)

#: The certificate says the plan's `changed` version; the lint expects the plan.
CHANGES: dict[str, dict[str, object]] = {
    "serial": {"serial": PLAN.serial + 1},
    "issuer": {"issuer": subject_of({"C": "CN", "CN": "签发人"})},
    "authority key": {"authority_key_identifier": bytes(20)},
    "subject": {"subject": subject_of({"C": "CN", "CN": "他人"})},
    "public key": {"public_key": sm2.PrivateKey.generate().public_key.to_bytes()},
    "not before": {"not_before": NOW - timedelta(seconds=1)},
    "not after": {"not_after": NOW + timedelta(days=366)},
    "key usage": {"key_usage": frozenset({"digital_signature"})},
    "an authority's key usage": {"key_usage": frozenset({"key_cert_sign", "digital_signature", "content_commitment"})},
    "extended key usage": {"extended_key_usage": ("1.3.6.1.5.5.7.3.9",)},
    "policies": {"policies": ()},
    "CRL": {"urls": replace(PLAN.urls, crl="http://a.cn/crl/issuing/1.crl")},
    "no CRL": {"urls": replace(PLAN.urls, crl=None)},
    "no delta CRL": {"urls": replace(PLAN.urls, delta=False)},
    "OCSP": {"urls": replace(PLAN.urls, ocsp="http://b.cn/ocsp")},
    "issuer's address": {"urls": replace(PLAN.urls, issuer=None)},
    "status index": {"status": StatusIndex(oids.STATUS_INDEX_DEFAULT, 2027 * 12 + 10, 8)},
    "status month": {"status": StatusIndex(oids.STATUS_INDEX_DEFAULT, 2027 * 12 + 9, 7)},
    "no status index": {"status": None},
    "private extension": {"more": (Extension(oids.TAXATION_NUMBER, False, der.tlv(0x13, b"2")),)},
    "private extension critical": {"more": (Extension(oids.TAXATION_NUMBER, True, der.tlv(0x13, b"1")),)},
    "an extension twice": {"more": PLAN.more * 2},
    "one extension more": {"more": (*PLAN.more, Extension("1.2.3.4", False, der.null()))},
    "an authority": {"usage": "ca"},
    "an OCSP signer": {"usage": "ocsp", "extended_key_usage": ("1.3.6.1.5.5.7.3.9",)},
}

#: Plans that are bad in themselves; the certificate says them faithfully.
BAD_PLANS: dict[str, dict[str, object]] = {
    "short serial": {"serial": 1},
    "a serial of 17 octets": {"serial": 0xFF << 120},
    "ends before it begins": {"not_after": NOW - timedelta(days=1), "status": None},
    "C as UTF8String": {"subject": raw_name((oids.COUNTRY, 0x0C, b"CN"), (oids.COMMON_NAME, 0x0C, b"a"))},
    "CN as PrintableString": {"subject": raw_name((oids.COMMON_NAME, 0x13, b"a"))},
    "CN of 65": {"subject": raw_name((oids.COMMON_NAME, 0x0C, b"a" * 65))},
    "month not that of notAfter": {"status": StatusIndex(oids.STATUS_INDEX_DEFAULT, 1, 7)},
    "no key usage": {"key_usage": frozenset()},
}


def test_a_good_certificate_passes() -> None:
    Linter().check(PLAN, PLAN.tbs())


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_was_not_planned(name: str) -> None:
    with pytest.raises(LintFailure):
        Linter().check(PLAN, replace(PLAN, **CHANGES[name]).tbs())


@pytest.mark.parametrize("name", sorted(BAD_PLANS))
def test_what_must_not_be_planned(name: str) -> None:
    plan = replace(PLAN, **BAD_PLANS[name])
    with pytest.raises(LintFailure):
        Linter().check(plan, plan.tbs())


def inner(change: Callable[[bytes], bytes]) -> bytes:
    return change(PLAN.tbs())


@pytest.mark.parametrize(
    "change",
    [
        lambda tbs: tbs.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101")),  # version 2
        lambda tbs: tbs.replace(codec.SM3_WITH_SM2, der.sequence(der.oid("1.2.156.10197.1.504"))),  # inner algorithm
        lambda tbs: tbs[:-1],
        lambda tbs: tbs + b"\0",
    ],
)
def test_other_bytes(change: Callable[[bytes], bytes]) -> None:
    assert inner(change) != PLAN.tbs()
    with pytest.raises(LintFailure):
        Linter().check(PLAN, inner(change))


def test_after_2049_times_are_generalized() -> None:
    end = datetime(2051, 1, 1, tzinfo=UTC)
    plan = replace(PLAN, not_after=end, status=StatusIndex(oids.STATUS_INDEX_DEFAULT, 2051 * 12, 0))
    Linter().check(plan, plan.tbs())
    assert b"20510101000000Z" in plan.tbs()
    wrong = plan.tbs().replace(b"\x18\x0f20510101000000Z", b"\x17\x0f20510101000000Z")
    with pytest.raises(LintFailure):
        Linter().check(plan, wrong)


async def test_nothing_is_signed_or_stored_where_lint_fails(tmp_path: Path) -> None:
    """A fault in an encoder (here: what is critical is not said to be) ends before the authority's key."""
    async with installation(tmp_path) as world:
        encoders = template._extensions
        with (
            mock.patch.object(
                template, "_extensions", lambda plan: [replace(one, critical=False) for one in encoders(plan)]
            ),
            pytest.raises(LintFailure) as failure,
        ):
            await world.issuer.issue(Request().encode(), "organisation", actor="cli:test")
        assert failure.value.kind == "internal"
        assert world.signed == []
        async with world.database.read() as connection:
            assert await certificates.count(connection) == 3
