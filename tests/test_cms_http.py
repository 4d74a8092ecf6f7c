"""CMS messages over a socket: what we make others verify, what others make we verify, and what is wrong is said."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.clock import rfc3339
from core.model import KeyPurpose, KeyState, RevocationReason
from signer._native import sm2
from signer.signing.cms import parse_signed_data
from signer.signing.cms_enveloped import parse_enveloped_data
from signer.signing.settings import SigningSettings
from tests.cms_site import Site, b64, open_site, scalar
from tests.judges import Refused, der, openssl
from tests.judges.bouncycastle import BouncyCastle
from tests.signing_world import usage

CONTENT = "一份公文 and its text".encode()
ENCRYPTION = [usage("key_encipherment", "data_encipherment", "key_agreement")]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, signing=SigningSettings(max_data_bytes=100_000)) as site:
        yield site


async def signed(site: Site, **more: Any) -> bytes:
    status, answer = await site.post("/v1/cms/sign", {"key": "k", "data": b64(CONTENT), **more})
    assert status == 200
    return base64.b64decode(answer["cms"])


async def verified(site: Site, message: bytes, **more: Any) -> Any:
    status, answer = await site.post("/v1/cms/verify", {"cms": b64(message), **more}, scopes=None)
    assert status == 200
    return answer


async def test_what_we_sign_bouncycastle_reads_and_verifies(site: Site, bouncycastle: BouncyCastle) -> None:
    holder = await site.key("k")
    found = bouncycastle.verify_cms(await signed(site))
    assert found.octets("content") == CONTENT
    assert found.text("content_type") == "1.2.156.10197.6.1.4.2.1"
    assert found.texts("digest") == ["1.2.156.10197.1.401"]
    assert found.texts("signature") == ["1.2.156.10197.1.301.1"]
    enclosed = {base64.b64decode(b64(value)) for value in found._values["certificate"]}
    assert enclosed == {holder.certificate, site.realm.issuing.certificate, site.realm.root.certificate}


async def test_openssl_verifies_the_bytes_inside(site: Site) -> None:
    holder = await site.key("k")
    message = await signed(site)
    _, wrapper = der.read(message).children()
    *_, infos = wrapper.children()[0].children()
    (info,) = infos.children()
    openssl.verify(holder.key.public_key.to_bytes(), CONTENT, info.children()[-1].content)
    listing = openssl.run("asn1parse", "-inform", "DER", stdin=message).decode()
    assert "1.2.156.10197.6.1.4.2.2" in listing
    assert "sm3" in listing.lower()


async def test_detached_and_without_certificates(site: Site, bouncycastle: BouncyCastle) -> None:
    holder = await site.key("k")
    message = await signed(site, detached=True, certificates=False)
    parsed = parse_signed_data(message)
    assert (parsed.content, parsed.certificates) == (None, ())
    bouncycastle.verify_cms(message, content=CONTENT, certificates=[holder.certificate])
    with pytest.raises(Refused):
        bouncycastle.verify_cms(message, content=CONTENT + b".", certificates=[holder.certificate])
    answer = await verified(site, message, data=b64(CONTENT))
    assert answer["valid"]
    assert "content" not in answer
    other = await verified(site, message, data=b64(CONTENT + b"."))
    assert [result["reason"] for result in other["results"]] == ["signature"]
    status, problem = await site.post("/v1/cms/verify", {"cms": b64(message)})
    assert (status, problem["code"]) == (422, "cms_no_content")


async def test_our_own_are_verified_with_a_result_like_that_of_verify(site: Site) -> None:
    holder = await site.key("k")
    answer = await verified(site, await signed(site))
    assert base64.b64decode(answer["content"]) == CONTENT
    assert answer["results"] == [
        {"valid": True, "reason": None, "serial": f"{holder.serial:04x}", "authority": "issuing",
         "checked_at": rfc3339(site.realm.now_ms)}
    ]  # fmt: skip


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("signature", [None, "1.2.156.10197.1.501", "1.2.156.10197.1.301"])
async def test_what_bouncycastle_signs_is_verified(
    site: Site, bouncycastle: BouncyCastle, attributes: bool, detached: bool, signature: str | None
) -> None:
    first, second = await site.realm.issue(), await site.realm.issue()
    message = bouncycastle.make_cms(
        CONTENT,
        [(scalar(each.key), each.certificate) for each in (first, second)],
        attributes=attributes,
        detached=detached,
        null_parameters=detached,
        signature=signature,
    )
    data = {"data": b64(CONTENT)} if detached else {}
    answer = await verified(site, message, **data)
    assert answer["valid"]
    assert len(answer["results"]) == 2
    flawed = message.replace(CONTENT, CONTENT[:-1] + b"!") if not detached else message
    data = {"data": b64(CONTENT[:-1] + b"!")} if detached else {}
    answer = await verified(site, flawed, **data)
    assert [result["reason"] for result in answer["results"]] == ["signature", "signature"]
    assert "content" not in answer


async def test_each_signer_has_its_own_result(site: Site, bouncycastle: BouncyCastle) -> None:
    realm = site.realm
    good, revoked, expired = await realm.issue(), await realm.issue(), await realm.issue(from_days=-9, to_days=-1)
    foreign = await realm.issue(signed_by=sm2.PrivateKey.generate())
    sealing = await realm.issue(extensions=ENCRYPTION)
    await realm.revoke(revoked.serial, RevocationReason.SUPERSEDED, realm.now_ms - 5_000)
    holders = [good, revoked, expired, foreign, sealing]
    message = bouncycastle.make_cms(CONTENT, [(scalar(each.key), each.certificate) for each in holders])
    answer = await verified(site, message)
    assert not answer["valid"]
    reasons = {int(result["serial"], 16): result["reason"] for result in answer["results"]}
    expected = [None, "revoked", "expired", "chain", "key_usage"]
    assert reasons == {each.serial: reason for each, reason in zip(holders, expected, strict=True)}
    before = rfc3339(realm.now_ms - 10_000)
    answer = await verified(site, message, at=before)
    assert {int(r["serial"], 16): r["reason"] for r in answer["results"]}[revoked.serial] is None


async def test_no_bit_of_a_message_may_change(site: Site) -> None:
    await site.key("k")
    message = await signed(site)
    end = len(message) - len(parse_signed_data(message).signers[0].signature)
    start = message.index(CONTENT)
    for place in [*range(start, start + len(CONTENT)), *range(end, len(message))]:
        changed = bytearray(message)
        changed[place] ^= 1 << (place % 8)
        status, answer = await site.post("/v1/cms/verify", {"cms": b64(bytes(changed))})
        assert status in (400, 422) or not answer["valid"], place


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"cms": ""}, 400, "der"),
        ({"cms": "!"}, 400, "base64"),
        ({"cms": b64(b"\x30\x00")}, 400, "der"),
        ({"cms": b64(bytes.fromhex("300f06092a864886f70d010703a0023000"))}, 422, "cms_type"),
        ({}, 400, "body"),
        ({"cms": "", "more": 1}, 400, "body"),
        ({"cms": "", "at": "now"}, 400, "time"),
    ],
)
async def test_what_is_no_message(site: Site, body: Any, status: int, code: str) -> None:
    got, problem = await site.post("/v1/cms/verify", body)
    assert (got, problem["code"]) == (status, code)


async def test_a_message_with_other_content_is_refused(site: Site) -> None:
    await site.key("k")
    status, problem = await site.post("/v1/cms/verify", {"cms": b64(await signed(site)), "data": b64(b"other")})
    assert (status, problem["code"], problem["field"]) == (422, "cms_content", "data")


async def test_who_may_sign_and_with_what(site: Site) -> None:
    await site.key("k")
    await site.world.engine.create_key("bare", KeyPurpose.DATA, "owner", "test", callers=["app"])
    body = {"key": "k", "data": b64(CONTENT)}
    for path in ("/v1/cms/sign", "/v1/encrypt"):
        assert (await site.post(path, body, scopes=None))[0] == 401
        assert (await site.post(path, body, scopes="read"))[0] == 403
    for change, status, code in [
        ({"key": "none"}, 404, "key_unknown"),
        ({"key": "bare"}, 422, "key_certificate"),
        ({"detached": "yes"}, 400, "body"),
        ({"data": b64(bytes(100_001))}, 413, "field_size"),
    ]:
        got, problem = await site.post("/v1/cms/sign", {**body, **change})
        assert (got, problem["code"]) == (status, code)
    await site.world.engine.set_key_state("k", KeyState.FROZEN, "test")
    got, problem = await site.post("/v1/cms/sign", body)
    assert (got, problem["code"]) == (422, "key_frozen")


async def test_encryption_for_a_holder(site: Site, bouncycastle: BouncyCastle) -> None:
    holder = await site.realm.issue(extensions=ENCRYPTION)
    body = {"certificate": b64(holder.certificate), "data": b64(CONTENT)}
    status, answer = await site.post("/v1/encrypt", body)
    assert (status, answer["format"]) == (200, "cms")
    message = base64.b64decode(answer["ciphertext"])
    assert bouncycastle.open_cms(message, holder.certificate, scalar(holder.key)) == CONTENT
    assert parse_enveloped_data(message).open(holder.certificate, holder.key) == CONTENT
    status, answer = await site.post("/v1/encrypt", {**body, "format": "sm2"})
    assert holder.key.decrypt(base64.b64decode(answer["ciphertext"])) == CONTENT


async def test_encryption_under_a_bare_key(site: Site, bouncycastle: BouncyCastle) -> None:
    key = sm2.PrivateKey.generate()
    body = {"public_key": b64(key.public_key.to_bytes()), "data": b64(CONTENT)}
    status, answer = await site.post("/v1/encrypt", body)
    assert (status, answer["format"]) == (200, "sm2")
    ciphertext = base64.b64decode(answer["ciphertext"])
    assert bouncycastle.decrypt(scalar(key), ciphertext, encoding="der") == CONTENT
    for change, code in [
        ({"format": "cms"}, "body"), ({"format": "x"}, "body"), ({"public_key": b64(bytes(65))}, "public_key"),
        ({"data": ""}, "data_empty"), ({"certificate": ""}, "body"),
    ]:  # fmt: skip
        status, problem = await site.post("/v1/encrypt", {**body, **change})
        assert status in (400, 422)
        assert problem["code"] == code


async def test_nothing_is_encrypted_for_a_certificate_that_does_not_stand(site: Site) -> None:
    realm = site.realm
    revoked = await realm.issue(extensions=ENCRYPTION)
    await realm.revoke(revoked.serial, RevocationReason.SUPERSEDED, realm.now_ms - 1_000)
    for holder, code in [
        (revoked, "certificate_revoked"),
        (await realm.issue(), "certificate_key_usage"),
        (await realm.issue(extensions=ENCRYPTION, from_days=-9, to_days=-1), "certificate_expired"),
        (await realm.issue(extensions=ENCRYPTION, signed_by=sm2.PrivateKey.generate()), "certificate_chain"),
    ]:
        for form in ("cms", "sm2"):
            body = {"certificate": b64(holder.certificate), "data": b64(CONTENT), "format": form}
            status, problem = await site.post("/v1/encrypt", body)
            assert (status, problem["code"]) == (422, code)
