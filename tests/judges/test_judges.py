"""Every judge can say yes, and every judge can say no.

A judge that accepted everything would make the tests that lean on it worthless, so each is shown a good
object that another implementation made and then the same object with one bit of it turned over.
"""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tests.judges import Misuse, Refused, der, lint, openssl, peers
from tests.judges.bouncycastle import BouncyCastle
from tests.judges.foreign import CRL_URI, GOOD_SERIAL, KEY_COMPROMISE, REVOKED_SERIAL, World, make_world
from tests.reference import sm2

MESSAGE = b"judged by more than one"


@pytest.fixture(scope="module")
def world(bouncycastle: BouncyCastle) -> World:
    """BouncyCastle's own authority."""
    return make_world(bouncycastle)


def flip(data: bytes, at: int) -> bytes:
    """One bit turned over."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# ---- the protocol itself


def test_a_wrong_question_is_not_a_verdict(bouncycastle: BouncyCastle) -> None:
    with pytest.raises(Misuse, match="unknown command"):
        bouncycastle.ask("no-such-command")
    with pytest.raises(Misuse, match="exactly one public"):
        bouncycastle.ask("sm2-verify", ("message", b""))
    assert bouncycastle.version().startswith("1.")


# ---- raw SM2


def test_signatures_cross_between_all_judges(bouncycastle: BouncyCastle) -> None:
    key = bouncycastle.generate()
    assert peers.tongsuo_public(key.private) == key.public
    signatures = [
        bouncycastle.sign(key.private, MESSAGE),
        openssl.sign(key.private, key.public, MESSAGE),
        peers.tongsuo_sign(key.private, MESSAGE),
    ]
    for signature in signatures:
        bouncycastle.verify(key.public, MESSAGE, signature)
        openssl.verify(key.public, MESSAGE, signature)
        peers.tongsuo_verify(key.public, MESSAGE, signature)
        for judge in (bouncycastle.verify, openssl.verify, peers.tongsuo_verify):
            with pytest.raises(Refused):
                judge(key.public, MESSAGE, flip(signature, -1))
            with pytest.raises(Refused):
                judge(key.public, MESSAGE + b"!", signature)


def test_the_user_id_is_part_of_what_is_signed(bouncycastle: BouncyCastle) -> None:
    key = bouncycastle.generate()
    signature = bouncycastle.sign(key.private, MESSAGE, user_id=b"ALICE123@YAHOO.COM")
    openssl.verify(key.public, MESSAGE, signature, user_id=b"ALICE123@YAHOO.COM")
    with pytest.raises(Refused):
        openssl.verify(key.public, MESSAGE, signature)
    with pytest.raises(Refused):
        bouncycastle.verify(key.public, MESSAGE, signature)


def test_gmssl_judges_digests(bouncycastle: BouncyCastle) -> None:
    key = bouncycastle.generate()
    digest = peers.gmssl_sm3(MESSAGE)
    signature = peers.gmssl_sign_digest(key.private, key.public, digest, 0x1234567890ABCDEF)
    peers.gmssl_verify_digest(key.public, digest, signature)
    with pytest.raises(Refused):
        peers.gmssl_verify_digest(key.public, digest, flip(signature, 5))
    with pytest.raises(Refused):
        peers.gmssl_verify_digest(key.public, flip(digest, 5), signature)


def test_ciphertexts_cross(bouncycastle: BouncyCastle) -> None:
    key = bouncycastle.generate()
    sealed = bouncycastle.encrypt(key.public, MESSAGE, encoding="der")
    assert openssl.decrypt(key.private, key.public, sealed) == MESSAGE
    assert bouncycastle.decrypt(key.private, openssl.encrypt(key.public, MESSAGE), encoding="der") == MESSAGE
    assert bouncycastle.decrypt(key.private, peers.gmssl_encrypt(key.public, MESSAGE)) == MESSAGE
    assert peers.gmssl_decrypt(key.private, bouncycastle.encrypt(key.public, MESSAGE)) == MESSAGE
    with pytest.raises(Refused):
        openssl.decrypt(key.private, key.public, flip(sealed, -1))
    with pytest.raises(Refused):
        bouncycastle.decrypt(key.private, flip(sealed, -1), encoding="der")


# ---- certificates


def test_certificates(bouncycastle: BouncyCastle, world: World) -> None:
    view = bouncycastle.verify_certificate(world.leaf, world.issuing)
    assert view.serial == GOOD_SERIAL
    assert view.public == world.leaf_key.public == openssl.public_point(world.leaf)
    assert view.key_usage == {"digitalSignature", "nonRepudiation"}
    assert view.crl_uris == [CRL_URI]
    assert not view.is_ca
    assert view.not_before == world.now - timedelta(hours=1)
    openssl.verify_certificate(world.leaf, world.issuing)
    openssl.verify_signed(world.leaf, world.issuing)
    assert "Signature Algorithm: SM2-with-SM3" in openssl.certificate_text(world.leaf)

    flipped = der.flip_signature(world.leaf)
    for judge in (bouncycastle.verify_certificate, openssl.verify_certificate, openssl.verify_signed):
        with pytest.raises(Refused):
            judge(flipped, world.issuing)
    with pytest.raises(Refused, match="issuer name differs"):
        bouncycastle.verify_certificate(world.leaf, world.root)
    with pytest.raises(Refused):
        openssl.verify_certificate(world.leaf, world.root)


def test_paths(bouncycastle: BouncyCastle, world: World) -> None:
    chain = [world.leaf, world.issuing]
    crls = [world.crl, world.root_crl]
    bouncycastle.validate_path(world.root, chain, at=world.now)
    bouncycastle.validate_path(world.root, chain, at=world.now, crls=crls)
    with pytest.raises(Refused):
        bouncycastle.validate_path(world.root, [der.flip_signature(world.leaf), world.issuing], at=world.now)
    with pytest.raises(Refused):
        bouncycastle.validate_path(world.root, [world.leaf], at=world.now)
    with pytest.raises(Refused, match=r"not valid until|NotYetValid"):
        bouncycastle.validate_path(world.root, chain, at=world.now - timedelta(days=1))
    with pytest.raises(Refused, match="expired"):
        bouncycastle.validate_path(world.root, chain, at=world.now + timedelta(days=366))
    with pytest.raises(Refused, match=r"[Nn]o.*CRL"):
        bouncycastle.validate_path(world.root, chain, at=world.now, crls=[world.root_crl])
    with pytest.raises(Refused, match=r"[Rr]evo"):
        bouncycastle.validate_path(world.root, [world.revoked_leaf, world.issuing], at=world.now, crls=crls)
    with pytest.raises(Refused):
        bouncycastle.validate_path(
            world.root, chain, at=world.now, crls=[der.flip_signature(world.crl), world.root_crl]
        )


# ---- CRLs


def test_crls(bouncycastle: BouncyCastle, world: World) -> None:
    view = bouncycastle.check_crl(world.crl, world.issuing, [GOOD_SERIAL, REVOKED_SERIAL], list_all=True)
    assert view.number == 7
    assert view.base_number is None
    assert (view.idp, view.idp_critical, view.idp_uris) == (True, True, [CRL_URI])
    assert view.entries == 1
    assert view.serials == {REVOKED_SERIAL} == set(view.listed)
    assert view.listed[REVOKED_SERIAL].reason == KEY_COMPROMISE
    assert view.listed[REVOKED_SERIAL].date == world.now
    assert view.this_update == world.now
    openssl.verify_signed(world.crl, world.issuing)
    assert "Key Compromise" in openssl.crl_text(world.crl)

    flipped = der.flip_signature(world.crl)
    with pytest.raises(Refused, match="CRL signature"):
        bouncycastle.check_crl(flipped, world.issuing)
    with pytest.raises(Refused):
        openssl.verify_signed(flipped, world.issuing)
    with pytest.raises(Refused, match="issuer name differs"):
        bouncycastle.check_crl(world.crl, world.root)


def test_a_serial_listed_twice_is_refused(bouncycastle: BouncyCastle, world: World) -> None:
    crl = bouncycastle.make_crl(
        world.issuing,
        world.issuing_key.private,
        number=8,
        this_update=world.now,
        next_update=world.now + timedelta(hours=1),
        entries=[(5, 1, world.now), (5, 4, world.now)],
    )
    with pytest.raises(Refused, match="listed twice"):
        bouncycastle.check_crl(crl, world.issuing)


# ---- OCSP


@pytest.mark.parametrize("digest", ["sm3", "sha1", "sha256"])
@pytest.mark.parametrize("by_key", [False, True])
def test_ocsp_responses(bouncycastle: BouncyCastle, world: World, digest: str, by_key: bool) -> None:
    nonce = bytes(range(16))
    response = world.ocsp(GOOD_SERIAL, "good", digest=digest, by_key=by_key, nonce=nonce)
    assert bouncycastle.ocsp_status(response) == 0
    view = bouncycastle.check_ocsp(response, world.issuing, GOOD_SERIAL)
    assert (view.status, view.reason, view.revoked_at) == ("good", None, None)
    assert (view.nonce, view.digest) == (nonce, digest)
    assert (view.this_update, view.next_update) == (world.now, world.now + timedelta(hours=8))
    assert (view.responder_id, view.responses, view.no_check) == ("key" if by_key else "name", 1, True)
    openssl.verify_ocsp(response, world.issuing)
    assert "Cert Status: good" in openssl.ocsp_text(response)

    flipped = der.flip_ocsp_signature(response)
    with pytest.raises(Refused, match="OCSP signature"):
        bouncycastle.check_ocsp(flipped, world.issuing, GOOD_SERIAL)
    with pytest.raises(Refused):
        openssl.verify_ocsp(flipped, world.issuing)


def test_ocsp_statuses(bouncycastle: BouncyCastle, world: World) -> None:
    revoked = world.ocsp(REVOKED_SERIAL, "revoked", reason=4, revoked_at=world.now - timedelta(minutes=5))
    view = bouncycastle.check_ocsp(revoked, world.issuing, REVOKED_SERIAL)
    assert (view.status, view.reason) == ("revoked", 4)
    assert view.revoked_at == world.now - timedelta(minutes=5)
    assert view.nonce is None
    bare = world.ocsp(REVOKED_SERIAL, "revoked", revoked_at=world.now)
    assert bouncycastle.check_ocsp(bare, world.issuing, REVOKED_SERIAL).reason == -1
    unknown = world.ocsp(9, "unknown")
    assert bouncycastle.check_ocsp(unknown, world.issuing, 9).status == "unknown"
    unauthorized = bytes.fromhex("30030a0106")
    assert bouncycastle.ocsp_status(unauthorized) == 6
    with pytest.raises(Refused, match="status 6"):
        bouncycastle.check_ocsp(unauthorized, world.issuing, 9)


def test_ocsp_answers_about_something_else_are_refused(bouncycastle: BouncyCastle, world: World) -> None:
    response = world.ocsp(GOOD_SERIAL, "good")
    with pytest.raises(Refused, match="no response for serial"):
        bouncycastle.check_ocsp(response, world.issuing, REVOKED_SERIAL)
    direct = world.ocsp(GOOD_SERIAL, "good", responder=world.issuing, private=world.issuing_key.private)
    assert bouncycastle.check_ocsp(direct, world.issuing, GOOD_SERIAL).status == "good"
    other_authority = bouncycastle.make_ocsp_response(
        world.root,
        GOOD_SERIAL,
        "good",
        responder=world.responder,
        private=world.responder_key.private,
        this_update=world.now,
        next_update=world.now,
        produced_at=world.now,
    )
    with pytest.raises(Refused, match="CertID"):
        bouncycastle.check_ocsp(other_authority, world.issuing, GOOD_SERIAL)


def test_ocsp_signers_without_authority_are_refused(bouncycastle: BouncyCastle, world: World) -> None:
    plain = world.ocsp(GOOD_SERIAL, "good", responder=world.leaf, private=world.leaf_key.private)
    with pytest.raises(Refused, match="without OCSPSigning"):
        bouncycastle.check_ocsp(plain, world.issuing, GOOD_SERIAL)
    forged = world.ocsp(GOOD_SERIAL, "good", responder=der.flip_signature(world.responder))
    with pytest.raises(Refused, match="responder certificate does not verify"):
        bouncycastle.check_ocsp(forged, world.issuing, GOOD_SERIAL)
    with pytest.raises(Refused):
        openssl.verify_ocsp(forged, world.issuing)
    late = world.ocsp(GOOD_SERIAL, "good", produced_at=world.now + timedelta(days=400))
    with pytest.raises(Refused, match="not valid at producedAt"):
        bouncycastle.check_ocsp(late, world.issuing, GOOD_SERIAL)


def test_both_make_the_same_ocsp_request(bouncycastle: BouncyCastle, world: World) -> None:
    ours = bouncycastle.make_ocsp_request(world.issuing, [GOOD_SERIAL], null_parameters=True)
    assert ours == openssl.make_ocsp_request(world.issuing, world.leaf, nonce=False)
    assert ours != bouncycastle.make_ocsp_request(world.issuing, [GOOD_SERIAL])
    assert bytes(range(32)) in bouncycastle.make_ocsp_request(
        world.issuing, [GOOD_SERIAL, REVOKED_SERIAL], nonce=bytes(range(32))
    )


# ---- requests and keys


def test_requests(bouncycastle: BouncyCastle) -> None:
    made = bouncycastle.make_csr("C=CN,O=\u6d4b\u8bd5,CN=\u5f20\u4e09")
    assert bouncycastle.verify_csr(made.der) == ("C=CN,O=\u6d4b\u8bd5,CN=\u5f20\u4e09", made.public)
    openssl.verify_csr(made.der)
    key = openssl.make_key()
    foreign = openssl.make_csr(key, "/C=CN/CN=someone")
    assert bouncycastle.verify_csr(foreign)[1] == openssl.read_private_key(key)[1]
    for csr in (made.der, foreign):
        with pytest.raises(Refused):
            bouncycastle.verify_csr(der.flip_signature(csr))
        with pytest.raises(Refused):
            openssl.verify_csr(der.flip_signature(csr))


def test_openssl_reads_encrypted_keys(bouncycastle: BouncyCastle) -> None:
    key = bouncycastle.generate()
    sealed = openssl.encrypt_private_key(key.private, key.public, b"open sesame")
    assert b"ENCRYPTED" in sealed
    assert openssl.read_private_key(sealed, password=b"open sesame") == (key.private, key.public)
    with pytest.raises(Refused):
        openssl.read_private_key(sealed, password=b"open barley")


def envelope(recipient: bytes, private: bytes, public: bytes) -> bytes:
    """An SM2EnvelopedKey (GM/T 0009 7.4) put together from the reference and the cryptography package."""
    key = bytes(range(16))
    encryptor = Cipher(SM4(key), ECB()).encryptor()
    return sm2.der_sequence(
        bytes.fromhex("300c06082a811ccf550168010500"),
        sm2.encrypt(sm2.decode_point(recipient), key, 0x1234567).der(),
        b"\x03\x42\x00" + public,
        b"\x03\x21\x00" + encryptor.update(private) + encryptor.finalize(),
    )


def test_enveloped_keys(bouncycastle: BouncyCastle) -> None:
    holder, inner, other = (bouncycastle.generate() for _ in range(3))
    good = envelope(holder.public, inner.private, inner.public)
    assert bouncycastle.open_enveloped_key(holder.private, good) == inner
    mismatched = envelope(holder.public, inner.private, other.public)
    with pytest.raises(Refused, match="does not belong"):
        bouncycastle.open_enveloped_key(holder.private, mismatched)
    for bad in (flip(good, -1), good + b"\x00", good[:-1]):
        with pytest.raises(Refused):
            bouncycastle.open_enveloped_key(holder.private, bad)
    with pytest.raises(Refused):
        bouncycastle.open_enveloped_key(other.private, good)


# ---- structure


def test_lint_finds_nothing_in_good_objects(world: World) -> None:
    for certificate in (world.root, world.issuing, world.leaf, world.responder):
        assert lint.complaints(lint.lint_certificate(certificate)) == []
    assert lint.complaints(lint.lint_crl(world.crl)) == []
    assert lint.complaints(lint.lint_ocsp(world.ocsp(GOOD_SERIAL, "good"))) == []


def test_lint_finds_faults(bouncycastle: BouncyCastle, world: World) -> None:
    month = bouncycastle.make_crl(
        world.issuing,
        world.issuing_key.private,
        number=9,
        this_update=world.now,
        next_update=world.now + timedelta(days=30),
    )
    assert lint.complaints(lint.lint_crl(month, browser_rules=True))
    far = datetime(2049, 12, 31, tzinfo=UTC)
    wrong_name = bouncycastle.make_certificate(
        "sign",
        "C=China,CN=too long a country",
        world.leaf_key.public,
        private=world.issuing_key.private,
        issuer=world.issuing,
        serial=77,
        not_before=world.now,
        not_after=far,
    )
    assert lint.complaints(lint.lint_certificate(wrong_name))
    backwards = world.ocsp(GOOD_SERIAL, "good", next_update=world.now - timedelta(hours=1))
    assert lint.complaints(lint.lint_ocsp(backwards))


# ---- the DER walk


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x30",
        bytes.fromhex("3080020100"),
        bytes.fromhex("30810100"),
        bytes.fromhex("30820003020100"),
        bytes.fromhex("3003020100ff"),
        bytes.fromhex("3004020100"),
        bytes.fromhex("1f8101"),
    ],
)
def test_the_walk_is_strict(bad: bytes) -> None:
    with pytest.raises(der.NotDer):
        der.whole(bad)


def test_a_flip_changes_the_signature_alone(world: World) -> None:
    good, bad = der.split(world.leaf), der.split(der.flip_signature(world.leaf))
    assert (good.tbs, good.algorithm) == (bad.tbs, bad.algorithm)
    assert good.signature[:-1] == bad.signature[:-1]
    assert good.signature[-1] ^ bad.signature[-1] == 1
