"""The compiled core, beside tongsuopy and OpenSSL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from tongsuopy.crypto import hashes as tongsuo_hashes
from tongsuopy.crypto.asymciphers import ec as tongsuo_ec

from signer._native import sm2, sm3

pytestmark = pytest.mark.benchmark(group="native")
Timed = Callable[..., Any]
KEY = sm2.PrivateKey.from_bytes(bytes(range(1, 33)))
DIGEST = bytes(32)
MESSAGE = bytes(200)
PEER: Any = tongsuo_ec.generate_private_key(tongsuo_ec.SM2())
WITH_SM3 = tongsuo_ec.ECDSA(tongsuo_hashes.SM3())


def test_sm2_sign(timed: Timed) -> None:
    timed(lambda: KEY.sign(MESSAGE), lambda: PEER.sign(MESSAGE, WITH_SM3))


def test_sm2_sign_many(timed: Timed) -> None:
    digests = bytes(32 * 1024)
    timed(lambda: sm2.sign_many(KEY, digests), per=1024)


def test_sm2_verify(timed: Timed) -> None:
    signature = KEY.sign_digest(DIGEST)
    public, theirs = KEY.public_key, PEER.public_key()
    made = PEER.sign(MESSAGE, WITH_SM3)
    timed(
        lambda: public.verify_digest(DIGEST, signature),
        lambda: theirs.verify(made, MESSAGE, WITH_SM3),
    )


def test_sm2_verify_many(timed: Timed) -> None:
    keys = [sm2.PrivateKey.generate() for _ in range(256)]
    digests = bytes(32 * 256)
    signatures = sm2.sign_many(keys, digests)
    public = [key.public_key for key in keys]
    timed(lambda: sm2.verify_many(public, digests, signatures), per=256)


def test_sm3_of_a_long_message(timed: Timed) -> None:
    data = bytes(1 << 20)
    timed(lambda: sm3.sm3(data), lambda: hashlib.new("sm3", data).digest())


def test_sm3_of_many(timed: Timed) -> None:
    messages = [bytes(300)] * 512

    def peer() -> None:
        for message in messages:
            hashlib.new("sm3", message).digest()

    timed(lambda: sm3.sm3_many(messages), peer, per=512)
