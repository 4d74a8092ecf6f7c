"""The native SM2 before judges that nobody here wrote, both ways, the valid and the damaged."""

import pytest

from signer._native import sm2
from tests.judges import Refused, openssl, peers
from tests.judges.bouncycastle import BouncyCastle
from tests.native_sm2 import MESSAGE, N, flip
from tests.reference import sm2 as reference
from tests.reference.sm3 import sm3


def der_of(raw: bytes) -> bytes:
    """DER of r, s by the reference."""
    return reference.signature_to_der(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


MESSAGES = [b"", b"a", MESSAGE, bytes(range(256)) * 5]


@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_the_judges_accept_our_signatures(bouncycastle: BouncyCastle, message: bytes) -> None:
    key = sm2.PrivateKey.generate()
    public = key.public_key.to_bytes()
    e = key.public_key.digest(message)
    signatures = [key.sign(message), sm2.sign_many(key, e)]
    for raw in signatures:
        encoded = sm2.signature_to_der(raw)
        for judge in (peers.tongsuo_verify, openssl.verify, bouncycastle.verify):
            judge(public, message, encoded)
            with pytest.raises(Refused):
                judge(public, message, der_of(flip(raw, 8 * 40)))
            with pytest.raises(Refused):
                judge(public, message + b".", encoded)
        peers.gmssl_verify_digest(public, e, raw)
        with pytest.raises(Refused):
            peers.gmssl_verify_digest(public, e, flip(raw, 8 * 40))


@pytest.mark.parametrize("user_id", [b"", b"ALICE123@YAHOO.COM", b"\x00\xff" * 50])
def test_the_judges_use_the_same_identity(bouncycastle: BouncyCastle, user_id: bytes) -> None:
    key = sm2.PrivateKey.generate()
    public = key.public_key.to_bytes()
    encoded = sm2.signature_to_der(key.sign(MESSAGE, user_id=user_id))
    bouncycastle.verify(public, MESSAGE, encoded, user_id=user_id)
    with pytest.raises(Refused):
        bouncycastle.verify(public, MESSAGE, encoded)
    if user_id:
        openssl.verify(public, MESSAGE, encoded, user_id=user_id)


@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_we_accept_the_judges_signatures(bouncycastle: BouncyCastle, message: bytes) -> None:
    made = bouncycastle.generate()
    public = sm2.PublicKey.from_bytes(made.public)
    assert sm2.PrivateKey.from_bytes(made.private).public_key.to_bytes() == made.public
    e = public.digest(message)
    nonce = int.from_bytes(sm3(made.private), "big") % N
    signatures = [
        sm2.signature_from_der(bouncycastle.sign(made.private, message)),
        sm2.signature_from_der(openssl.sign(made.private, made.public, message)),
        sm2.signature_from_der(peers.tongsuo_sign(made.private, message)),
        peers.gmssl_sign_digest(made.private, made.public, e, nonce),
    ]
    for raw in signatures:
        public.verify(message, raw)
        with pytest.raises(sm2.InvalidSignature):
            public.verify(message, flip(raw, 8 * 20))
        with pytest.raises(sm2.InvalidSignature):
            public.verify(message + b".", raw)
    assert sm2.verify_many(public, e * 4, b"".join(signatures)) == b"\x01" * 4
    assert sm2.verify_many(public, e * 4, b"".join(flip(raw, 1) for raw in signatures)) == bytes(4)


@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 200])
def test_the_judges_open_our_ciphertexts(bouncycastle: BouncyCastle, length: int) -> None:
    made, text = bouncycastle.generate(), bytes(range(length))
    public = sm2.PublicKey.from_bytes(made.public)
    raw, encoded = public.encrypt(text, encoding="c1c3c2"), public.encrypt(text, encoding="der")
    assert bouncycastle.decrypt(made.private, raw) == text
    assert bouncycastle.decrypt(made.private, encoded, encoding="der") == text
    assert openssl.decrypt(made.private, made.public, encoded) == text
    assert peers.gmssl_decrypt(made.private, raw) == text
    with pytest.raises(Refused):
        bouncycastle.decrypt(made.private, flip(raw, 8 * 97))


@pytest.mark.parametrize("length", [8, 16, 31, 32, 33, 200])
def test_we_open_the_judges_ciphertexts(bouncycastle: BouncyCastle, length: int) -> None:
    """From 8 bytes up: OpenSSL 3.0 does not draw again when the key stream is all zero, and we refuse that (B4)."""
    key, text = sm2.PrivateKey.generate(), bytes(range(1, length + 1))
    public = key.public_key.to_bytes()
    assert key.decrypt(bouncycastle.encrypt(public, text), encoding="c1c3c2") == text
    assert key.decrypt(bouncycastle.encrypt(public, text, encoding="der"), encoding="der") == text
    assert key.decrypt(openssl.encrypt(public, text), encoding="der") == text
    assert key.decrypt(peers.gmssl_encrypt(public, text), encoding="c1c3c2") == text
    with pytest.raises(sm2.DecryptionError):
        key.decrypt(flip(openssl.encrypt(public, text), -8), encoding="der")
