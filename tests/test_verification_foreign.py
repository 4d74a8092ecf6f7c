"""Foreign status over real sockets: CRLs and OCSP answers by BouncyCastle, sound and broken, and bad servers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from core.asn1 import der
from core.asn1.x509 import SM3_WITH_SM2, Extension, join_signed
from core.clock import system_clock
from core.model import RevocationReason
from signer._native import sm2
from signer.signing.cms import parse_signed_data
from signer.signing.cms_service import CmsService
from signer.signing.fetch import AllowList
from signer.signing.foreign import ForeignStatus, sm3
from signer.signing.parsed import parse
from signer.signing.settings import SigningSettings
from signer.signing.trust import Trust
from signer.signing.verdicts import VerifyItem
from signer.signing.verification import VerificationService
from signer.signing.verification_settings import ForeignStatusSettings, VerificationSettings
from status.source import StoreStatusSource
from tests.engine_world import World, open_world
from tests.foreign_world import CA, MESSAGE, Foreign, crl_at, ocsp_at, open_foreign
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.views import Csr
from tests.running import Service
from tests.signing_world import DAY_MS, add_authority, authority, certificate, usage

DAY_S = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
async def foreign(world: World, bouncycastle: BouncyCastle) -> AsyncIterator[Foreign]:
    async with open_foreign(world, bouncycastle, system_clock(), fetch_timeout_s=0.5) as opened:
        yield opened


# ---- CRLs


async def test_a_crl_tells_good_revoked_and_held_and_is_the_evidence(foreign: Foreign) -> None:
    good, gone, held = foreign.leaf(), foreign.leaf(), foreign.leaf()
    crl = foreign.crl([(gone.serial, 4, -600), (held.serial, 6, -600)], number=0x1234)
    foreign.site.put("/leaf.crl", crl)
    verdict = await foreign.judged(good)
    assert (verdict.reason, verdict.detail) == (None, None)
    assert [link.subject for link in verdict.path[1:]] == [foreign.issuing.name, foreign.root.name]
    found = {entry.source: entry for entry in verdict.evidence}
    entry = found[foreign.site.url("/leaf.crl")]
    assert (entry.kind, entry.crl_number, entry.sm3) == ("crl", 0x1234, sm3(crl))
    assert set(found) == {foreign.site.url("/leaf.crl"), foreign.site.url("/root.crl")}
    verdict = await foreign.judged(gone)
    assert (verdict.reason, verdict.revocation_reason) == ("revoked", RevocationReason.SUPERSEDED)
    assert (await foreign.judged(held)).reason == "suspended"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(4, None), (6, None), (0, None), (1, "revoked"), (2, "revoked")],
)
async def test_a_revocation_after_the_time_asked_about(foreign: Foreign, reason: int, expected: str | None) -> None:
    """A compromise without its date takes every signature with it: whoever had the key could write any time."""
    holder = foreign.leaf()
    foreign.site.put("/leaf.crl", foreign.crl([(holder.serial, reason, -600)]))
    assert (await foreign.judged(holder, at_ms=foreign.now_ms - DAY_MS)).reason == expected


def invalidity(at: str) -> bytes:
    return Extension("2.5.29.24", False, der.tlv(der.GENERALIZED_TIME, at.encode())).encode()


def hand_crl(
    foreign: Foreign,
    entries: bytes = b"",
    extensions: bytes = b"",
    *,
    until: bytes | None = None,
    issuer: bytes | None = None,
) -> bytes:
    """A CRL written by hand, signed by the issuing authority: for what BouncyCastle would not write."""
    tbs = der.sequence(
        der.integer(1),
        SM3_WITH_SM2,
        issuer or foreign.issuing.name,
        der.x509_time(foreign.when(-3_600)),
        der.x509_time(foreign.when(3_600)) if until is None else until,
        der.sequence(entries) if entries else b"",
        der.tlv(der.context(0), der.sequence(extensions)) if extensions else b"",
    )
    return join_signed(tbs, sm2.signature_to_der(foreign.issuing.key.sign(tbs)))


def hand_entry(foreign: Foreign, serial: int, *extensions: bytes) -> bytes:
    more = der.sequence(*extensions) if extensions else b""
    return der.sequence(der.integer(serial), der.x509_time(foreign.when(-600)), more)


REASON = {code: Extension("2.5.29.21", False, der.enumerated(code)).encode() for code in (1, 8)}


async def test_a_compromise_counts_from_its_invalidity_date(foreign: Foreign) -> None:
    holder = foreign.leaf()
    since = foreign.when(-5 * DAY_S).strftime("%Y%m%d%H%M%SZ")
    foreign.site.put("/leaf.crl", hand_crl(foreign, hand_entry(foreign, holder.serial, REASON[1], invalidity(since))))
    assert (await foreign.judged(holder, at_ms=foreign.now_ms - 6 * DAY_MS)).reason is None
    assert (await foreign.judged(holder, at_ms=foreign.now_ms - 4 * DAY_MS)).reason == "revoked"


def idp(*fields: bytes) -> bytes:
    return Extension("2.5.29.28", True, der.sequence(*fields)).encode()


TRUE = b"\xff"
BAD_CRLS: dict[str, tuple[str, Callable[[Foreign], bytes]]] = {
    "expired": ("nextUpdate", lambda f: f.crl(since_s=-7_200, until_s=-1)),
    "not yet": ("has not come", lambda f: f.crl(since_s=3_000, until_s=7_200)),
    "wrong signature": ("does not verify", lambda f: f.crl(signed_by=f.root)),
    "another issuer": ("does not verify", lambda f: f.crl(issuer=f.root)),
    "another name": ("another issuer", lambda f: hand_crl(f, issuer=f.root.name)),
    "another point": ("another distribution point", lambda f: f.crl(idp_uri="http://elsewhere.example/1.crl")),
    "only authorities": ("other kind", lambda f: hand_crl(f, extensions=idp(der.tlv(0x82, TRUE)))),
    "only attributes": ("attribute", lambda f: hand_crl(f, extensions=idp(der.tlv(0x85, TRUE)))),
    "indirect": ("indirect", lambda f: hand_crl(f, extensions=idp(der.tlv(0x84, TRUE)))),
    "some reasons": ("some reasons", lambda f: hand_crl(f, extensions=idp(der.tlv(0x83, b"\x06\x40")))),
    "delta": (
        "2.5.29.27",
        lambda f: hand_crl(f, extensions=Extension("2.5.29.27", True, der.integer(3)).encode()),
    ),
    "unknown critical": (
        "2.25.7",
        lambda f: hand_crl(f, extensions=Extension("2.25.7", True, der.null()).encode()),
    ),
    "no nextUpdate": ("how long", lambda f: hand_crl(f, until=b"")),
    "critical entry": (
        "critical",
        lambda f: hand_crl(f, hand_entry(f, 9, Extension("2.5.29.29", True, der.sequence()).encode())),
    ),
    "removeFromCRL": ("no meaning", lambda f: hand_crl(f, hand_entry(f, 9, REASON[8]))),
    "a serial twice": ("twice", lambda f: hand_crl(f, hand_entry(f, 9) + hand_entry(f, 9))),
    "garbage": ("not sound", lambda f: b"\x30\x03\x02\x01\x05"),
    "empty": ("not sound", lambda f: b""),
    "cut": ("not sound", lambda f: f.crl()[:-9]),
}


@pytest.mark.parametrize("name", BAD_CRLS)
async def test_a_crl_that_will_not_do_leaves_the_status_unknown(foreign: Foreign, name: str) -> None:
    word, make = BAD_CRLS[name]
    foreign.site.put("/leaf.crl", make(foreign))
    verdict = await foreign.judged(foreign.leaf())
    assert verdict.reason == "unknown_status"
    assert word in (verdict.detail or "")


async def test_a_crl_in_parts_is_the_one_its_certificate_names(foreign: Foreign) -> None:
    one, two = foreign.site.url("/p/1.crl"), foreign.site.url("/p/2.crl")
    first, second = foreign.leaf(crl_at(one)), foreign.leaf(crl_at(two))
    foreign.site.put("/p/1.crl", foreign.crl(idp_uri=one))
    foreign.site.put("/p/2.crl", foreign.crl(idp_uri=one))  # the wrong part at the right address
    assert (await foreign.judged(first)).reason is None
    assert (await foreign.judged(second)).reason == "unknown_status"


async def test_what_expired_before_the_crl_may_have_left_it(foreign: Foreign) -> None:
    """Absence from a CRL says nothing of a certificate that had expired when it was made (RFC 5280 §3.3)."""
    holder = foreign.leaf(to_days=-5)
    at_ms = foreign.now_ms - 6 * DAY_MS
    foreign.site.put("/leaf.crl", foreign.crl())
    assert (await foreign.judged(holder, at_ms=at_ms)).reason == "unknown_status"


async def test_a_crl_that_keeps_the_expired_says_so(foreign: Foreign) -> None:
    holder = foreign.leaf(to_days=-5)
    since = der.generalized_time(foreign.when(-10 * DAY_S))
    kept = Extension("2.5.29.60", False, since)
    foreign.site.put("/leaf.crl", hand_crl(foreign, extensions=kept.encode()))
    assert (await foreign.judged(holder, at_ms=foreign.now_ms - 6 * DAY_MS)).reason is None


async def test_a_revoked_authority_takes_its_certificates_with_it(foreign: Foreign) -> None:
    foreign.site.put("/leaf.crl", foreign.crl())
    foreign.site.put("/root.crl", foreign.crl([(2, 5, -600)], issuer=foreign.root))
    assert (await foreign.judged(foreign.leaf())).reason == "chain"


async def test_an_authority_of_unknown_status_makes_none_valid(foreign: Foreign) -> None:
    foreign.site.put("/leaf.crl", foreign.crl())
    del foreign.site.at["/root.crl"]
    verdict = await foreign.judged(foreign.leaf())
    assert verdict.reason == "unknown_status"
    assert "authority" in (verdict.detail or "")


# ---- servers


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    while True:
        await response.write(b"\x30")
        await asyncio.sleep(0.02)


async def flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(160):
        await response.write(bytes(65_536))
    return response


async def announce(_request: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(10 << 20))


async def refuse(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def to(target: str) -> Callable[[web.Request], object]:
    async def redirect(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    return redirect


BAD_SERVERS = {
    "hangs": (hang, "no whole answer"),
    "drips": (drip, "no whole answer"),
    "10 MB, chunked": (flood, "more than"),
    "10 MB": (announce, "more than"),
    "503": (refuse, "503"),
    "hangs up": (hang_up, "connection"),
    "redirects off the list": (to("http://127.0.0.2:9/x.crl"), "off the allow-list"),
    "redirects to a file": (to("file:///etc/passwd"), "off the allow-list"),
    "redirects for ever": (to("/leaf.crl"), "redirects"),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
async def test_a_bad_server_leaves_the_status_unknown(world: World, bouncycastle: BouncyCastle, name: str) -> None:
    handler, word = BAD_SERVERS[name]
    async with open_foreign(world, bouncycastle, system_clock(), fetch_timeout_s=0.3, max_crl_bytes=1 << 20) as foreign:
        foreign.site.at["/leaf.crl"] = handler  # type: ignore[assignment]
        verdict = await foreign.judged(foreign.leaf())
        assert verdict.reason == "unknown_status"
        assert word in (verdict.detail or "")


async def test_a_redirect_within_the_list_is_followed(foreign: Foreign) -> None:
    foreign.site.at["/leaf.crl"] = to("/moved/leaf.crl")  # type: ignore[assignment]
    foreign.site.put("/moved/leaf.crl", foreign.crl())
    assert (await foreign.judged(foreign.leaf())).reason is None


async def test_only_what_is_allowed_is_ever_asked(world: World, bouncycastle: BouncyCastle) -> None:
    async with open_foreign(world, bouncycastle, system_clock(), allow=()) as foreign:
        foreign.site.put("/leaf.crl", foreign.crl())
        assert (await foreign.judged(foreign.leaf())).reason == "unknown_status"
        assert not foreign.site.hits


@pytest.mark.parametrize(
    ("url", "admitted"),
    [
        ("http://crl.example.cn/sm2/1.crl", True),
        ("http://CRL.example.cn:80/sm2/1.crl", True),
        ("http://crl.example.cn/one.crl", True),
        ("http://crl.example.cn/one.crl2", False),
        ("http://crl.example.cn/sm2", False),
        ("http://crl.example.cn/sm2/../x", False),
        ("http://crl.example.cn/sm2/%2e%2e/x", False),
        ("http://crl.example.cn/sm2\\..\\x", False),
        ("http://crl.example.cn:81/sm2/1.crl", False),
        ("https://crl.example.cn/sm2/1.crl", False),
        ("http://crl.example.cn.evil.cn/sm2/1.crl", False),
        ("http://crl.example.cn@evil.cn/sm2/1.crl", False),
        ("http://user@crl.example.cn/sm2/1.crl", False),
        ("http://crl.example.cn/sm2/#x", False),
        ("http://crl.example.cn:x/sm2/", False),
        ("ldap://crl.example.cn/sm2/", False),
        ("http://crl.example.cn/sm2/\n", False),
        ("http://[::1/sm2/", False),
        ("", False),
    ],
)
def test_the_allow_list(url: str, admitted: bool) -> None:
    allow = AllowList(("http://crl.example.cn/sm2/", "http://crl.example.cn/one.crl"))
    assert allow.admits(url) is admitted


async def test_a_crl_is_fetched_once_for_all_and_again_after_its_next_update(foreign: Foreign) -> None:
    foreign.site.put("/leaf.crl", foreign.crl(until_s=3_600))
    holders = [foreign.leaf() for _ in range(20)]
    verdicts = await asyncio.gather(*(foreign.judged(holder) for holder in holders))
    assert all(verdict.valid for verdict in verdicts)
    assert foreign.site.hits["/leaf.crl"] == 1
    foreign.clock[0] += 3_601_000
    assert (await foreign.judged(holders[0])).reason == "unknown_status"  # the site still has the old one
    foreign.clock[0] += 3_600_000
    foreign.site.put("/leaf.crl", foreign.crl([(holders[0].serial, 4, -600)]))
    assert (await foreign.judged(holders[0])).reason == "revoked"
    assert foreign.site.hits["/leaf.crl"] == 3


async def test_a_failing_source_is_left_alone_for_a_while(foreign: Foreign) -> None:
    foreign.site.at["/leaf.crl"] = refuse
    holder = foreign.leaf()
    for _ in range(5):
        assert (await foreign.judged(holder)).reason == "unknown_status"
    assert foreign.site.hits["/leaf.crl"] == 1
    foreign.clock[0] += 1_001
    assert (await foreign.judged(holder)).reason == "unknown_status"
    foreign.clock[0] += 1_001  # the second wait is twice as long, less a quarter at most
    await foreign.judged(holder)
    assert foreign.site.hits["/leaf.crl"] == 2
    foreign.site.put("/leaf.crl", foreign.crl())
    foreign.clock[0] += 1_001
    assert (await foreign.judged(holder)).reason is None


async def test_one_issuers_trouble_with_an_address_is_no_other_ones(foreign: Foreign) -> None:
    """A certificate of the root that names the issuing authority's CRL does not spoil it for that one's."""
    foreign.site.put("/leaf.crl", foreign.crl())
    strange = foreign.leaf(issuer=foreign.root)
    assert (await foreign.judged(strange)).reason == "unknown_status"
    assert (await foreign.judged(foreign.leaf())).reason is None


async def test_the_cache_is_bounded(world: World, bouncycastle: BouncyCastle) -> None:
    async with open_foreign(world, bouncycastle, system_clock(), max_cache_bytes=1 << 20) as foreign:
        entries = [(serial, 4, -600.0) for serial in range(10_000, 14_000)]
        for name in ("/a.crl", "/b.crl", "/c.crl"):
            foreign.site.put(name, foreign.crl(entries))
        for name in ("/a.crl", "/b.crl", "/c.crl", "/c.crl", "/a.crl"):
            assert (await foreign.judged(foreign.leaf(crl_at(foreign.site.url(name))))).reason is None
        assert foreign.status._cached_bytes <= 1 << 20
        assert foreign.site.hits["/c.crl"] == 1
        assert foreign.site.hits["/a.crl"] == 2


async def test_a_call_waits_no_longer_than_it_should_and_the_others_have_their_answers(
    world: World, bouncycastle: BouncyCastle
) -> None:
    async with open_foreign(world, bouncycastle, system_clock(), call_timeout_s=1.5, fetch_timeout_s=60) as foreign:
        foreign.site.put("/leaf.crl", foreign.crl())
        foreign.site.at["/slow.crl"] = hang
        good, stuck = foreign.leaf(), foreign.leaf(crl_at(foreign.site.url("/slow.crl")))
        items = [VerifyItem(h.key.sign(MESSAGE), certificate=h.certificate, data=MESSAGE) for h in (good, stuck, good)]
        verdicts = await foreign.service.verify(items)
        assert [verdict.reason for verdict in verdicts] == [None, "unknown_status", None]


# ---- OCSP


def serve_ocsp(foreign: Foreign, make: Callable[[], bytes]) -> list[bytes]:
    """Stands `make`'s answer at /ocsp; the requests come into the list."""
    asked: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(body=make(), content_type="application/ocsp-response")

    foreign.site.at["/ocsp"] = answer
    return asked


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("delegated", [False, True])
async def test_ocsp_good_by_the_issuer_and_by_its_delegate(foreign: Foreign, by_key: bool, delegated: bool) -> None:
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    responder = foreign.delegate() if delegated else None
    asked = serve_ocsp(foreign, lambda: foreign.ocsp(holder.serial, responder=responder, by_key=by_key))
    verdict = await foreign.judged(holder)
    assert (verdict.reason, verdict.detail) == (None, None)
    entry = next(entry for entry in verdict.evidence if entry.kind == "ocsp")
    assert entry.produced_at_ms is not None
    assert (await foreign.judged(holder)).valid
    assert len(asked) == 1  # the second time from the cache


async def test_ocsp_revoked_and_held(foreign: Foreign) -> None:
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    serve_ocsp(foreign, lambda: foreign.ocsp(holder.serial, "revoked", reason=4))
    verdict = await foreign.judged(holder)
    assert (verdict.reason, verdict.revocation_reason) == ("revoked", RevocationReason.SUPERSEDED)
    other = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    serve_ocsp(foreign, lambda: foreign.ocsp(other.serial, "revoked", reason=6))
    assert (await foreign.judged(other)).reason == "suspended"


UNAUTHORIZED = der.sequence(der.enumerated(6))


@pytest.mark.parametrize("digest", ["sm3", "sha1", "sha256"])
async def test_ocsp_under_the_digest_that_the_responder_knows(
    world: World, bouncycastle: BouncyCastle, digest: str
) -> None:
    async with open_foreign(world, bouncycastle, system_clock(), ocsp_hashes=("sm3", "sha256", "sha1")) as foreign:
        holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
        oid = {"sm3": "1.2.156.10197.1.401", "sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1"}[digest]

        async def answer(request: web.Request) -> web.Response:
            known = der.oid(oid) in await request.read()
            return web.Response(body=foreign.ocsp(holder.serial, digest=digest) if known else UNAUTHORIZED)

        foreign.site.at["/ocsp"] = answer
        assert (await foreign.judged(holder)).reason is None


BAD_OCSP: dict[str, tuple[str, Callable[[Foreign, int], bytes]]] = {
    "past": ("nextUpdate", lambda f, n: f.ocsp(n, since_s=-7_200, until_s=-1)),
    "future": ("has not come", lambda f, n: f.ocsp(n, since_s=3_000, until_s=7_200)),
    "another certificate": ("not about", lambda f, n: f.ocsp(n + 1)),
    "another issuer": ("nobody", lambda f, n: f.ocsp(n, issuer=f.root)),
    "unknown": ("does not know", lambda f, n: f.ocsp(n, "unknown")),
    "delegate of another": ("nobody", lambda f, n: f.ocsp(n, responder=f.delegate(issuer=f.root))),
    "not for OCSP": (
        "nobody",
        lambda f, n: f.ocsp(n, responder=f.delegate(purpose=ExtendedKeyUsageOID.CLIENT_AUTH)),
    ),
    "a holder": ("nobody", lambda f, n: f.ocsp(n, responder=f.leaf())),
    "tryLater": ("tryLater", lambda f, n: der.sequence(der.enumerated(3))),
    "garbage": ("not sound", lambda f, n: b"\x30\x80"),
    "changed": ("", lambda f, n: f.ocsp(n)[:-1] + b"\0"),
}


@pytest.mark.parametrize("name", BAD_OCSP)
async def test_an_ocsp_answer_that_will_not_do(foreign: Foreign, name: str) -> None:
    word, make = BAD_OCSP[name]
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    serve_ocsp(foreign, lambda: make(foreign, holder.serial))
    verdict = await foreign.judged(holder)
    assert verdict.reason == "unknown_status"
    assert word in (verdict.detail or "")


async def test_a_delegate_without_nocheck_is_looked_up_itself(foreign: Foreign) -> None:
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    responder = foreign.delegate(nocheck=False)
    serve_ocsp(foreign, lambda: foreign.ocsp(holder.serial, responder=responder))
    foreign.site.put("/leaf.crl", foreign.crl([(responder.serial, 4, -600)]))
    assert (await foreign.judged(holder)).reason == "unknown_status"
    foreign.clock[0] += 3_601_000 * 2
    foreign.site.put("/leaf.crl", foreign.crl())
    assert (await foreign.judged(holder)).reason is None


async def test_the_crl_serves_where_ocsp_does_not(foreign: Foreign) -> None:
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")), crl_at(foreign.site.url("/leaf.crl")))
    foreign.site.at["/ocsp"] = refuse
    foreign.site.put("/leaf.crl", foreign.crl())
    assert (await foreign.judged(holder)).reason is None


async def test_no_bytes_of_a_source_raise_anything(foreign: Foreign) -> None:
    """Every answer with one octet changed is judged, and none of them says good."""
    whole = foreign.crl()
    for at in range(0, len(whole), 23):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        foreign.site.put(f"/c{at}.crl", changed)
        assert (await foreign.judged(foreign.leaf(crl_at(foreign.site.url(f"/c{at}.crl"))))).reason == "unknown_status"
    holder = foreign.leaf(ocsp_at(foreign.site.url("/ocsp")))
    answer = foreign.ocsp(holder.serial, responder=foreign.delegate())
    for at in range(0, len(answer), 29):
        changed = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        serve_ocsp(foreign, lambda changed=changed: changed)  # type: ignore[misc]
        foreign.clock[0] += 400_000  # past any back-off
        verdict = await foreign.judged(holder)
        assert verdict.reason in ("unknown_status", None)
        if verdict.valid:  # an octet that is not signed: the outer OCSPResponse has none, a certificate beside may
            assert changed != answer
            assert sm3(changed) in {entry.sm3 for entry in verdict.evidence}


# ---- several ways up


async def test_a_key_revoked_for_compromise_is_no_good_by_another_path(foreign: Foreign) -> None:
    """The issuing authority has a cross-certificate by another trusted root; its own root revokes its key."""
    other = authority("other root", None, foreign.now_ms)
    kind = [usage("key_cert_sign", "crl_sign"), CA, crl_at(foreign.site.url("/other.crl"))]
    cross = authority("foreign issuing", other, foreign.now_ms, serial=5, extensions=kind)
    issuing = foreign.issuing
    extensions = [*kind, Extension.of(x509.SubjectKeyIdentifier(parse(issuing.certificate).subject_key_id or b""))]
    cross.certificate = certificate(
        5, other, "foreign issuing", issuing.key.public_key.to_bytes(), [*extensions, foreign.named(other)],
        foreign.now_ms - DAY_MS, foreign.now_ms + DAY_MS, other.key,
    )  # fmt: skip
    foreign.service._trust = Trust.of(
        [parse(foreign.root.certificate), parse(other.certificate)],
        [parse(issuing.certificate), parse(cross.certificate)],
    )
    foreign.site.put("/leaf.crl", foreign.crl())
    foreign.site.put("/other.crl", foreign.crl(issuer=other))
    foreign.site.put("/root.crl", foreign.crl([(2, 4, -600)], issuer=foreign.root))
    assert (await foreign.judged(foreign.leaf())).reason is None  # superseded there, but it stands here
    foreign.clock[0] += 3_601_000 * 2
    foreign.site.put("/leaf.crl", foreign.crl())
    foreign.site.put("/other.crl", foreign.crl(issuer=other))
    foreign.site.put("/root.crl", foreign.crl([(2, 1, -600)], issuer=foreign.root))
    foreign.clock[0] += 1
    assert (await foreign.judged(foreign.leaf())).reason == "chain"


async def test_an_authority_under_our_key_that_is_not_in_our_store_makes_none_valid(
    world: World, foreign: Foreign
) -> None:
    """It has our signature and was never issued, as far as the store knows: whoever made it had our key."""
    own = authority("own", None, foreign.now_ms)
    known = authority("known", own, foreign.now_ms, serial=98)
    await add_authority(world, own, None, foreign.now_ms)
    await add_authority(world, known, "own", foreign.now_ms)
    stray = authority("stray", own, foreign.now_ms, serial=99)
    for between, reason in ((stray, "unknown_status"), (known, "unknown_status")):
        foreign.site.put("/stray.crl", foreign.crl(issuer=between))
        holder = foreign.leaf(crl_at(foreign.site.url("/stray.crl")), issuer=between)
        item = VerifyItem(holder.key.sign(MESSAGE), certificate=holder.certificate, data=MESSAGE)
        (verdict,) = await foreign.service.verify([item], intermediates=[between.certificate])
        assert verdict.reason == reason, between.id


# ---- another installation of this service


async def test_another_installations_certificates(service: Service, bouncycastle: BouncyCastle, tmp_path: Path) -> None:
    """Issued, served by OCSP and CRL and revoked by one installation; judged by another that trusts its root."""
    csr: Csr = bouncycastle.make_csr("C=CN,O=外省,CN=外省单位")
    issued = await asyncio.to_thread(service.issue, csr.der)
    issuing, root = (parse(encoded) for encoded in issued.chain)
    key = sm2.PrivateKey.from_bytes(csr.private)
    item = VerifyItem(key.sign(MESSAGE), certificate=issued.certificates["sign"], data=MESSAGE)
    async with open_world(tmp_path) as world:
        orders: tuple[Any, ...] = (("ocsp", "crl"), ("crl",))
        for order in orders:
            bounds = VerificationSettings(foreign=ForeignStatusSettings(allow=(service.public + "/",), order=order))
            foreign = ForeignStatus(bounds.foreign, system_clock)
            judging = VerificationService(
                world.database,
                StoreStatusSource(world.database),
                system_clock,
                SigningSettings(),
                bounds,
                trust=Trust.of([root]),
                foreign=foreign,
            )
            verdicts = await judging.verify([item], intermediates=[issuing.encoded])
            assert [(v.reason, v.detail) for v in verdicts] == [(None, None)], order
            cms = CmsService(world.engine, judging, world.database, SigningSettings())
            made = bouncycastle.make_cms(MESSAGE, [(csr.private, issued.certificates["sign"])])
            alone = parse_signed_data(made)
            with_issuer = replace(alone, certificates=(*alone.certificates, issuing.encoded))
            for message, reason in ((alone, "chain"), (with_issuer, None)):
                (verdict,) = await cms.verdicts(message, MESSAGE)
                assert verdict.reason == reason
            await foreign.close()
        serial = issued.serials["sign"]
        answer = await asyncio.to_thread(
            service.call, "POST", f"/v1/certificates/{serial}/revoke", {"reason": "superseded"}
        )
        assert answer.status == 200, base64.b64encode(answer.body)
        foreign = ForeignStatus(ForeignStatusSettings(allow=(service.public + "/",)), system_clock)
        judging._foreign = foreign
        (verdict,) = await judging.verify([item], intermediates=[issuing.encoded])
        await foreign.close()
        assert verdict.reason == "revoked"
