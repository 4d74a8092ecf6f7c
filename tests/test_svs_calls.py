"""GB/T 38629-2020 by an independent client, in both mappings: every operation, and every response code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.asn1.x509 import subject_public_key_info
from core.model import KeyState, RevocationReason
from core.store import crls
from core.store.crls import CrlRecord
from signer._native import sm2
from signer.signing.svs_settings import SvsSettings
from status.source import StoreStatusSource
from tests.cms_site import Site, open_site
from tests.judges import openssl, peers
from tests.judges.bouncycastle import BouncyCastle
from tests.signing_world import Holder, usage
from tests.store_world import create_store
from tests.svs_client import SGD_SM3_SM2, SvsClient

CODE = b"Code-of-Key-1"
DATA = "原文 original".encode() * 9
MAPPINGS = ["form", "json"]
NAMES = {"signMethod": SGD_SM3_SM2, "keyIndex": 1, "keyValue": CODE}


def data(content: bytes = DATA) -> dict[str, bytes | int]:
    return {"inDataLen": len(content), "inData": content}


class World:
    """A site with key 1, its holder, and a client."""

    def __init__(self, site: Site, holder: Holder, client: SvsClient) -> None:
        self.site = site
        self.holder = holder
        self.call = client.call

    @property
    def public(self) -> bytes:
        return self.holder.key.public_key.to_bytes()


@pytest.fixture(params=MAPPINGS)
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_site(tmp_path, svs=SvsSettings(max_data_bytes=50_000)) as site:
        holder = await site.key("k", index=1, code=CODE)
        assert site.client is not None
        yield World(site, holder, SvsClient(site.client, request.param))


def by(holder: Holder, content: bytes = DATA, *, user_id: bytes = sm2.DEFAULT_ID) -> bytes:
    return sm2.signature_to_der(holder.key.sign(content, user_id=user_id))


# ---- signing and verifying


async def test_signed_data_verifies_elsewhere(world: World) -> None:
    answer = await world.call("signData", **NAMES, **data())
    assert (answer.code, answer.status) == (0, 200)
    openssl.verify(world.public, DATA, answer.octets("signature"))
    peers.tongsuo_verify(world.public, DATA, answer.octets("signature"))


async def test_with_a_user_id(world: World) -> None:
    mine = {"signerIDLen": 5, "signerID": b"alice"}
    answer = await world.call("signData", **NAMES, **mine, **data())
    signature = answer.octets("signature")
    openssl.verify(world.public, DATA, signature, user_id=b"alice")
    named = {"signMethod": SGD_SM3_SM2, "type": 1, "cert": world.holder.certificate, "verifyLevel": 2}
    assert (await world.call("verifySignedData", **named, **mine, **data(), signature=signature)).code == 0
    assert (await world.call("verifySignedData", **named, **data(), signature=signature)).code == 0xC


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_a_signature_by_anothers_key_is_verified(world: World, bouncycastle: BouncyCastle, level: int) -> None:
    scalar = bytearray(32)
    holder = await world.site.realm.issue()
    holder.key.export_into(scalar)
    signature = bouncycastle.sign(bytes(scalar), DATA)
    named = {"signMethod": SGD_SM3_SM2, "type": 1, "cert": holder.certificate, "verifyLevel": level}
    assert (await world.call("verifySignedData", **named, **data(), signature=signature)).code == 0
    for place in range(0, len(signature), 5):
        flawed = bytearray(signature)
        flawed[place] ^= 4
        assert (await world.call("verifySignedData", **named, **data(), signature=bytes(flawed))).code == 0xC
    assert (await world.call("verifySignedData", **named, **data(DATA + b"!"), signature=signature)).code == 0xC


async def test_by_serial(world: World) -> None:
    serial = world.holder.serial
    named = {"signMethod": SGD_SM3_SM2, "type": 2, "verifyLevel": 2, "signature": by(world.holder)}
    for written in (serial.to_bytes(2, "big"), f"{serial:04x}".encode()):
        assert (await world.call("verifySignedData", **named, certSN=written, **data())).code == 0
    assert (await world.call("verifySignedData", **named, certSN=b"\x7f\x7f\x7f", **data())).code == 7


async def test_what_each_level_looks_at(world: World) -> None:
    realm = world.site.realm
    cases = {
        "expired": (await realm.issue(from_days=-9, to_days=-1), (9, 9, 9)),
        "not yet": (await realm.issue(from_days=1), (0xA, 0xA, 0xA)),
        "foreign": (await realm.issue(signed_by=sm2.PrivateKey.generate()), (0, 7, 7)),
        "revoked": (await realm.issue(), (0, 0, 0xB)),
        "never issued": (await realm.issue(record=False), (0, 0, 7)),
        "for encryption": (await realm.issue(extensions=[usage("key_encipherment")]), (7, 7, 7)),
    }
    await realm.revoke(cases["revoked"][0].serial, RevocationReason.SUPERSEDED, realm.now_ms - 1_000)
    for name, (holder, expected) in cases.items():
        named = {"signMethod": SGD_SM3_SM2, "type": 1, "cert": holder.certificate, "signature": by(holder)}
        got = [(await world.call("verifySignedData", **named, **data(), verifyLevel=n)).code for n in range(3)]
        assert tuple(got) == expected, name


# ---- sessions


PIECES = [DATA, b"", b"x" * 40_000, b"end"]


@pytest.mark.parametrize("named_first", [None, "point", "coordinates", "spki", "bits"])
async def test_data_in_pieces(world: World, named_first: str | None) -> None:
    point = world.public
    forms = {
        "point": point, "coordinates": point[1:], "spki": subject_public_key_info(point),
        "bits": b"\x03\x42\x00" + point,
    }  # fmt: skip
    key = {} if named_first is None else {"signerPublicKey": forms[named_first]}
    user = {"signerIDLen": 3, "signerID": b"bob"}
    began = await world.call("signDataInit", signMethod=SGD_SM3_SM2, **key, **user)
    session = began.octets("SessionID")
    for piece in PIECES:
        answer = await world.call("signDataUpdate", SessionID=session, **data(piece))
        assert (answer.code, answer.octets("SessionID")) == (0, session)
    final = {"SessionID": session, "keyIndex": 1, "keyValue": CODE}
    assert (await world.call("signDataFinal", **{**final, "keyValue": b"wrong"})).code == 6
    answer = await world.call("signDataFinal", **final)
    signature = answer.octets("signature")
    openssl.verify(point, b"".join(PIECES), signature, user_id=b"bob")
    assert (await world.call("signDataFinal", **final)).code == 0xD

    began = await world.call("verifySignedDataInit", signMethod=SGD_SM3_SM2, **key, **user)
    session = began.octets("SessionID")
    for piece in PIECES:
        assert (await world.call("verifySignedDataUpdate", SessionID=session, **data(piece))).code == 0
    final = {"SessionID": session, "type": 1, "cert": world.holder.certificate, "verifyLevel": 2}
    assert (await world.call("verifySignedDataFinal", **final, signature=signature)).code == 0
    assert (await world.call("verifySignedDataFinal", **final, signature=signature)).code == 0xD


async def test_a_changed_piece_is_noticed(world: World) -> None:
    session = (await world.call("verifySignedDataInit", signMethod=SGD_SM3_SM2)).octets("SessionID")
    await world.call("verifySignedDataUpdate", SessionID=session, **data(DATA + b"?"))
    final = {"SessionID": session, "type": 1, "cert": world.holder.certificate, "verifyLevel": 0}
    assert (await world.call("verifySignedDataFinal", **final, signature=by(world.holder))).code == 0xC


async def test_sessions_are_of_a_kind_and_of_a_key(world: World) -> None:
    other = sm2.PrivateKey.generate().public_key.to_bytes()
    session = (await world.call("signDataInit", signMethod=SGD_SM3_SM2, signerPublicKey=other)).octets("SessionID")
    assert (await world.call("verifySignedDataUpdate", SessionID=session, **data())).code == 0xD
    assert (await world.call("signDataFinal", SessionID=session, keyIndex=1, keyValue=CODE)).code == 5
    begun = await world.call("verifySignedDataInit", signMethod=SGD_SM3_SM2, signerPublicKey=other)
    final = {"SessionID": begun.octets("SessionID"), "type": 1, "cert": world.holder.certificate, "verifyLevel": 2}
    assert (await world.call("verifySignedDataFinal", **final, signature=by(world.holder))).code == 7
    for wrong in (b"", b"\x04" + bytes(64), bytes(65), other[:40]):
        answer = await world.call("signDataInit", signMethod=SGD_SM3_SM2, signerPublicKey=wrong)
        assert answer.code == (0xD if wrong else 0)


# ---- messages


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("original", [False, True])
async def test_messages(world: World, bouncycastle: BouncyCastle, original: bool, chain: bool) -> None:
    answer = await world.call("signMessage", **NAMES, **data(), originalText=original, certificateChain=chain)
    message = answer.octets("signedMessage")
    found = bouncycastle.verify_cms(message, content=None if original else DATA)
    assert found.maybe_octets("content") == (DATA if original else None)
    assert len(found._values["certificate"]) == (3 if chain else 1)
    more = {} if original else data()
    assert (await world.call("verifySignedMessage", signedMessage=message, **more)).code == 0
    assert (await world.call("verifySignedMessage", signedMessage=message, **data(b"other"))).code == 0xC
    flawed = message[:-1] + bytes([message[-1] ^ 1])
    assert (await world.call("verifySignedMessage", signedMessage=flawed, **more)).code == 0xC
    if not original:
        assert (await world.call("verifySignedMessage", signedMessage=message)).code == 0xD


async def test_a_message_with_its_crl(world: World, bouncycastle: BouncyCastle) -> None:
    asked = {**NAMES, **data(), "crl": True, "originalText": True}
    assert (await world.call("signMessage", **asked)).code == 3
    crl = b"\x30\x03\x02\x01\x05"
    async with world.site.world.database.write() as connection:
        record = CrlRecord("issuing", 0, 1, None, 0, 1, 0, 0, crl)
        await crls.publish(connection, record, at_ms=world.site.realm.now_ms)
    message = (await world.call("signMessage", **asked)).octets("signedMessage")
    assert bouncycastle.verify_cms(message).octets("crl") == crl


async def test_anothers_message(world: World, bouncycastle: BouncyCastle) -> None:
    realm = world.site.realm
    good, revoked = await realm.issue(), await realm.issue()
    await realm.revoke(revoked.serial, RevocationReason.KEY_COMPROMISE, realm.now_ms - 1_000)
    signers = []
    for holder in (good, revoked):
        scalar = bytearray(32)
        holder.key.export_into(scalar)
        signers.append((bytes(scalar), holder.certificate))
    for chosen, code in ((signers[:1], 0), (signers[1:], 0xB), (signers, 0xB)):
        message = bouncycastle.make_cms(DATA, chosen, attributes=True)
        assert (await world.call("verifySignedMessage", signedMessage=message)).code == code


# ---- certificates


async def test_export(world: World) -> None:
    for name in (b"1", b"k", f"{world.holder.serial:04x}".encode()):
        answer = await world.call("exportCert", identification=name)
        assert (answer.code, answer.octets("cert")) == (0, world.holder.certificate)
    for name in (b"2", b"nobody", b"\xff\xfe", b"7f7f7f"):
        assert (await world.call("exportCert", identification=name)).code == 1


async def test_parse(world: World) -> None:
    holder = world.holder
    expected: dict[int, bytes | None] = {
        1: b"3",
        2: f"{holder.serial:04x}".encode(),
        7: f"CN=holder {holder.serial},C=CN".encode(),
        8: subject_public_key_info(world.public),
        0x13: b"\x03\x02\x06\xc0",
        0x21: b"issuing",
        0x31: f"holder {holder.serial}".encode(),
        0x32: None,
        0x17: None,
    }
    for item, info in expected.items():
        answer = await world.call("parseCert", infoType=item, cert=holder.certificate)
        assert answer.code == 0
        assert (answer.octets("info") if info is not None else answer.members) == (info or {})
    whole = (await world.call("parseCert", infoType=6, cert=holder.certificate)).octets("info").decode()
    ends = [(await world.call("parseCert", infoType=n, cert=holder.certificate)).octets("info") for n in (0x35, 0x36)]
    assert whole.encode() == b"-".join(ends)
    for item in (5, 9, 0x11):
        assert (await world.call("parseCert", infoType=item, cert=holder.certificate)).octets("info")
    for item in (0, 3, 0x37, 0x999):
        assert (await world.call("parseCert", infoType=item, cert=holder.certificate)).code == 2
    assert (await world.call("parseCert", infoType=1, cert=holder.certificate[:-9])).code == 8


async def test_validate(world: World) -> None:
    realm = world.site.realm
    sealing, revoked, held = (
        await realm.issue(extensions=[usage("key_encipherment")]),
        *[await realm.issue() for _ in range(2)],
    )
    await realm.revoke(revoked.serial, RevocationReason.SUPERSEDED, realm.now_ms - 1_000)
    await realm.revoke(held.serial, RevocationReason.CERTIFICATE_HOLD, realm.now_ms - 1_000)
    cases = [
        (world.holder, 0, "0"), (sealing, 0, "0"), (revoked, 0xB, "1"), (held, 0xB, "1"),
        (await realm.issue(record=False), 7, "2"), (await realm.issue(signed_by=sm2.PrivateKey.generate()), 7, None),
        (await realm.issue(from_days=-9, to_days=-1), 9, None), (await realm.issue(from_days=2), 0xA, None),
    ]  # fmt: skip
    for holder, code, state in cases:
        for online in (False, True):
            answer = await world.call("validateCert", cert=holder.certificate, ocsp=online)
            assert (answer.code, answer.members.get("state")) == (code, state)
    assert (await world.call("validateCert", cert=b"0\x82garbage")).code == 8


# ---- every other refusal


async def test_refusals(world: World) -> None:
    engine = world.site.world.engine
    asked = {**NAMES, **data()}
    for change, code in [
        ({"signMethod": 0x00010001}, 4), ({"signMethod": "SM2"}, 0xD), ({"keyIndex": 2}, 5), ({"keyValue": b"no"}, 6),
        ({"inDataLen": 3}, 0xD), ({"inData": "***"}, 0xD), ({"inData": bytes(50_001), "inDataLen": 50_001}, 0xD),
        ({"signerID": bytes(9_000)}, 0xD), ({"keyIndex": -1}, 0xD), ({"keyValue": ""}, 0xD),
    ]:  # fmt: skip
        answer = await world.call("signData", **{**asked, **change})
        assert (answer.code, answer.members) == (code, {}), change
    named = {"signMethod": SGD_SM3_SM2, "type": 1, "cert": world.holder.certificate, "signature": by(world.holder)}
    for change, code in [
        ({"type": 3}, 0xD), ({"verifyLevel": 3}, 0xD), ({"cert": b"junk"}, 8), ({"signature": b"junk"}, 0xC),
        ({"signMethod": 1}, 4), ({"cert": ""}, 8),
    ]:  # fmt: skip
        assert (await world.call("verifySignedData", **{**named, **data(), "verifyLevel": 2, **change})).code == code
    assert (await world.call("verifySignedMessage", signedMessage=b"junk")).code == 0xD
    await engine.set_key_state("k", KeyState.FROZEN, "test")
    assert (await world.call("signData", **asked)).code == 5


async def test_the_2012_number_of_the_method_is_taken(world: World) -> None:
    assert (await world.call("signData", **{**NAMES, **data(), "signMethod": 0x00020101})).code == 0


async def test_a_failure_of_the_system(world: World) -> None:
    await world.site.world.engine.close()
    answer = await world.call("signData", **NAMES, **data())
    assert (answer.code, answer.status) == (0xE, 503)
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("mapping", MAPPINGS)
async def test_a_status_that_cannot_be_asked(tmp_path: Path, mapping: str) -> None:
    elsewhere = await create_store(f"sqlite+aiosqlite:///{tmp_path / 'other.sqlite3'}")
    async with elsewhere.write() as connection:
        await connection.exec_driver_sql("DROP TABLE certificates")
    async with open_site(tmp_path, status_source=lambda _: StoreStatusSource(elsewhere)) as site:
        holder = await site.key("k", index=1, code=CODE)
        assert site.client is not None
        call = SvsClient(site.client, mapping).call
        assert (await call("validateCert", cert=holder.certificate)).code == 3
        named = {"signMethod": SGD_SM3_SM2, "type": 1, "cert": holder.certificate, "signature": by(holder)}
        levels = [(await call("verifySignedData", **named, **data(), verifyLevel=n)).code for n in range(3)]
        assert levels == [0, 0, 3]
        message = (await call("signMessage", **NAMES, **data(), originalText=True)).octets("signedMessage")
        assert (await call("verifySignedMessage", signedMessage=message)).code == 3
    await elsewhere.close()
