"""What bulk issuance assembles and reads natively is what the ordinary builder and parser make of it, to the octet."""

from __future__ import annotations

import base64
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from core.asn1 import der, names
from core.asn1.plain_names import encode_plain, read_plain, region_of_own
from core.asn1.x509 import Extension
from core.errors import QianyanError
from signer._native import sm2
from signer.issuance import serials
from signer.issuance._template import Template, split_request
from signer.issuance.bulk_lines import Bad, Line, LineReader
from signer.issuance.csr import parse_request
from signer.issuance.lint import Linter
from signer.issuance.policy import grant
from signer.issuance.profiles import load_profiles
from signer.issuance.stencil import Stencils, cut
from signer.issuance.template import CertificatePlan, StatusIndex, status_month, urls
from tests.bulk_world import bodies, holder
from tests.issuance_support import ORGANISATION, PUBLIC_URL, STATUS_OID, Request, raw_name

_ISSUER = names.build_name({"C": "CN", "O": "签验测试", "CN": "签验测试签发"}).public_bytes()
_KEY = sm2.PrivateKey.generate().public_key.to_bytes()
_MORE = Extension("1.2.156.10260.4.1.4", False, b"\x13\x0291")


def _plan(chosen: random.Random, number: int) -> CertificatePlan:
    """A holder's certificate of one of several kinds, its own parts at random."""
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=chosen.randrange(40 * 365 * 86_400))
    end = begin + timedelta(days=chosen.choice([1, 365, 3650]), seconds=-1)
    usage = chosen.choice(["sign", "encrypt"])
    return CertificatePlan(
        usage=usage,
        serial=serials.draw(),
        issuer=_ISSUER,
        authority_key_identifier=b"k" * 20,
        subject=encode_plain(holder(number)[2]),
        public_key=b"\x04" + chosen.randbytes(64),
        not_before=begin,
        not_after=end,
        key_usage=frozenset({"digital_signature"} if usage == "sign" else {"key_encipherment", "key_agreement"}),
        extended_key_usage=chosen.choice([(), ("1.3.6.1.5.5.7.3.2",)]),
        policies=chosen.choice([(), ("1.2.156.1.1",)]),
        urls=urls(PUBLIC_URL, "issuing", chosen.randrange(4)),
        status=StatusIndex(STATUS_OID, status_month(end), chosen.choice([0, 127, 128, 40_000, 1 << 31, (1 << 63) - 1])),
        more=(_MORE,) if chosen.random() < 0.3 else (),
    )


def test_assembled_as_built() -> None:
    chosen, stencils, linter = random.Random(7), Stencils(), Linter()
    fresh = 0
    for number in range(3_000):
        plan = _plan(chosen, number)
        tbs, new = stencils.tbs(plan)
        assert tbs == plan.tbs()
        fresh += new
        if number % 50 == 0:
            linter.check(plan, tbs)
    assert 8 <= fresh < 400, "one template for each kind, not for each certificate"


def test_a_template_refuses_other_parts() -> None:
    plan = _plan(random.Random(1), 1)
    assert plan.status is not None
    template = cut(plan)
    times = [der.x509_time(at)[2:] for at in (plan.not_before, plan.not_after)]
    right = (plan.serial.to_bytes(16, "big"), *times, plan.subject, plan.public_key, b"i" * 20, b"", 24_000, 1)
    assert isinstance(template, Template)
    assert template.assemble(*right)
    for place, wrong in ((0, b"1" * 15), (1, b"1"), (2, b"1"), (4, b"1" * 64), (5, b"1" * 21), (6, bytes(2 << 20))):
        with pytest.raises(ValueError, match="part"):
            template.assemble(*right[:place], wrong, *right[place + 1 :])  # type: ignore[arg-type]


def test_names_as_ordinary() -> None:
    for number in range(500):
        fields = holder(number)[2]
        assert encode_plain(fields) == names.build_name(fields).public_bytes()
        assert region_of_own(encode_plain(fields)) == names.region_of(encode_plain(fields)) != ""
    odd: list[dict[str, list[str]]] = [
        {"CN": [""]},
        {"CN": [" a"]},
        {"C": ["cn"], "CN": ["a"]},
        {"SERIALNUMBER": ["é"]},
        {"CN": ["a\u200b"]},
        {"XX": ["a"]},
        {},
        {"CN": ["a" * 65]},
    ]
    for fields in odd:
        with pytest.raises(QianyanError) as ordinary:
            names.build_name(fields)
        with pytest.raises(QianyanError) as plain:
            encode_plain(fields)
        assert (plain.value.code, plain.value.field) == (ordinary.value.code, ordinary.value.field)
    for fields in ({"L": ["市/" * 60], "CN": ["a"]}, {"CN": ["a"]}, {"ST": ["省"], "CN": ["a"]}):
        assert region_of_own(encode_plain(fields)) == names.region_of(encode_plain(fields))
    assert read_plain([(b"\x55\x04\x03", 0x13, "甲".encode())]) is None
    assert read_plain([(b"\x55\x04\x99", 0x0C, b"a")]) is None


def _line(csr: bytes, number: int = 1) -> Line:
    text = b'{"profile": "organisation", "csr": "' + base64.b64encode(csr) + b'"}'
    return Line(number, len(text) + 1, text)


def test_requests_read_as_ordinary() -> None:
    """Good ones give the same grant, bad ones the same refusal, whichever way they go."""
    base = Request()
    encoded = base.encode()
    mutated = random.Random(3)
    requests = [
        encoded,
        Request(extensions=[_MORE]).encode(),
        Request(user_id=b"other").encode(),
        Request(subject=raw_name(("2.5.4.6", 0x13, b"CN"), ("2.5.4.3", 0x1E, "甲".encode("utf-16-be")))).encode(),
        Request(subject=raw_name(("2.5.4.10", 0x0C, b"\xff"), ("2.5.4.3", 0x0C, b"a"))).encode(),
        Request(subject=raw_name(("2.5.4.10", 0x13, b"a*b"), ("2.5.4.3", 0x0C, b"a"))).encode(),
        Request(version=1).encode(),
        Request(spki=b"\x30\x00").encode(),
        replace(base, algorithm=der.sequence(der.oid("1.2.156.10197.1.501"), der.null())).encode(),
        b"",
        b"-----BEGIN CERTIFICATE REQUEST-----",
    ]
    for _ in range(400):
        one = bytearray(encoded)
        one[mutated.randrange(len(one))] ^= 1 << mutated.randrange(8)
        requests.append(bytes(one))
    profiles = load_profiles()
    read = LineReader(profiles, "issuing", 64 * 1024).read([_line(one) for one in requests], None)
    accepted = 0
    for csr, found in zip(requests, read, strict=True):
        if isinstance(found, Bad):
            with pytest.raises(QianyanError) as refused:
                grant(parse_request(csr), profiles.get("organisation"))
            # an empty one is refused by the body's model already
            assert not csr or (found.error.code, found.error.field) == (refused.value.code, refused.value.field)
            continue
        request = parse_request(csr)
        ordinary = grant(request, profiles.get("organisation"))
        accepted += 1
        assert (found.subject, found.extensions, found.public_key) == (
            ordinary.subject,
            ordinary.extensions,
            request.public_key,
        )
    assert accepted >= 3, "the plain one, the one with an extension, the one with NULL parameters"


def test_plain_requests_take_the_quick_way() -> None:
    """Else it would only be slow, and nobody would notice."""
    for body in bodies(1, 6):
        parts = split_request(base64.b64decode(body.split(b'"csr": "')[1].rstrip(b'"}')))
        assert parts is not None
        assert read_plain(parts[1]) is not None
    assert split_request(Request(subject=names.build_name(ORGANISATION).public_bytes()).encode()) is not None
