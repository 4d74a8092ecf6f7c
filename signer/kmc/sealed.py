"""A private key on its way to its user: SignedAndEnvelopedData of GM/T 0010-2012, as RetKeyRespond has it.

The content is the scalar, 32 octets, under a fresh SM4 key in ECB, that one under the user's signing key; the centre's
signature is over the scalar. Nobody but the user can open it, the authority that passes it on included, which only
turns it into an SM2EnvelopedKey (GM/T 0009 §7.4): the same ciphertexts in another frame. Knows DER and native keys;
not stores or who asks. Scalars and SM4 keys are bytearrays that are wiped here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core import oids
from core.asn1 import der
from core.asn1.x509 import load_certificate
from core.errors import Malformed
from signer._native import sm2
from signer.engine.pbes2 import as_bytes, wipe
from signer.kmc.fields import algorithm, integer

_VERSION: Final = der.integer(1)
_SM3: Final = der.sequence(der.oid(oids.SM3))
_ENCRYPT: Final = der.sequence(der.oid(oids.SM2_ENCRYPT))
_SIGN: Final = der.sequence(der.oid(oids.SM2_SIGN))
_ECB: Final = der.sequence(der.oid(oids.SM4_ECB))
_ECB_NULL: Final = der.sequence(der.oid(oids.SM4_ECB), der.null())
_CIPHER_OIDS: Final = frozenset({der.oid(oids.SM4_ECB), der.oid(oids.SM4)})
_ENCRYPTION_OIDS: Final = frozenset({der.oid(oids.SM2_ENCRYPT), der.oid(oids.SM2_EXCHANGE), der.oid(oids.SM2_CURVE)})
_TYPE_OIDS: Final = frozenset(
    {der.oid(oids.GM_SIGNED_AND_ENVELOPED_DATA), der.oid(oids.PKCS7_SIGNED_AND_ENVELOPED_DATA)}
)
#: A scalar as it is met: raw, as a padded INTEGER or PKCS #8, in whole SM4 blocks.
_CONTENT_BYTES: Final = range(32, 257, 16)
_MAX_KEY_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class SealedKey:
    """The two ciphertexts: the SM4 key for the user (SM2Cipher, DER), and the private key under that."""

    encrypted_key: bytes
    content: bytes

    def enveloped(self, public_key: bytes) -> bytes:
        """SM2EnvelopedKey for the holder, `public_key` (65 bytes) being the enveloped key's."""
        return der.sequence(_ECB_NULL, self.encrypted_key, der.bit_string(public_key), der.bit_string(self.content))


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A sealed key, and the digest (32 bytes) that the centre's key is to sign: SM3 over Z and the scalar."""

    sealed: SealedKey
    digest: bytes


def seal(private_key: sm2.PrivateKey, recipient: bytes, centre: bytes) -> Unsigned:
    """The key, sealed for the public key `recipient`; `centre`: the public key of who is to sign, both 65 bytes."""
    scalar, sym, content = bytearray(32), bytearray(16), bytearray(32 + 15)
    try:
        private_key.export_into(scalar)
        sym[:] = os.urandom(16)  # that one short-lived bytes object cannot be wiped
        cipher = Cipher(algorithms.SM4(as_bytes(sym)), modes.ECB()).encryptor()  # noqa: S305 - the standard's mode
        length = cipher.update_into(as_bytes(scalar), content)
        cipher.finalize()
        encrypted_key = sm2.PublicKey.from_bytes(recipient).encrypt(as_bytes(sym), encoding="der")
        digest = sm2.PublicKey.from_bytes(centre).digest(as_bytes(scalar), user_id=sm2.DEFAULT_ID)
        return Unsigned(SealedKey(encrypted_key, bytes(content[:length])), digest)
    finally:
        wipe(scalar)
        wipe(sym)


def encode(sealed: SealedKey, authority: bytes, number: int, centre: bytes, signature: bytes) -> bytes:
    """SignedAndEnvelopedData. `authority`, `centre`: certificates (DER); `signature`: SM2Signature over the scalar.

    The recipient is named as its certificate will be: by the authority's name and the certificate's number.
    """
    recipient = der.sequence(load_certificate(authority).subject.public_bytes(), der.integer(number))
    signer = load_certificate(centre)
    named = der.sequence(signer.issuer.public_bytes(), der.integer(signer.serial_number))
    content = der.tlv(der.context(0, constructed=False), sealed.content)
    return der.sequence(
        _VERSION,
        der.tlv(der.SET, der.sequence(_VERSION, recipient, _ENCRYPT, der.octet_string(sealed.encrypted_key))),
        der.tlv(der.SET, _SM3),
        der.sequence(der.oid(oids.GM_DATA), _ECB, content),
        der.tlv(der.context(0), centre),
        der.tlv(der.SET, der.sequence(_VERSION, named, _SM3, _SIGN, der.octet_string(signature))),
    )


def read(encoded: bytes) -> SealedKey:
    """The ciphertexts in a SignedAndEnvelopedData, bare or in a ContentInfo, for one recipient. Raises Malformed.

    The signature cannot be checked by who cannot open it: it is the user's to look at.
    """
    whole = der.Reader(encoded)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    if body.peek() == der.OBJECT_IDENTIFIER:
        if body.take_tlv() not in _TYPE_OIDS:
            raise _bad("is not SignedAndEnvelopedData")
        wrapper = body.enter(der.context(0))
        body.finish()
        body = wrapper.enter(der.SEQUENCE)
        wrapper.finish()
    integer(body)
    encrypted_key = _recipient(body.enter(der.SET))
    body.take(der.SET)  # digest algorithms
    inner = body.enter(der.SEQUENCE)
    inner.take(der.OBJECT_IDENTIFIER)
    if algorithm(inner) not in _CIPHER_OIDS:
        raise _bad("is not encrypted by SM4 in ECB")
    content = inner.take(der.context(0, constructed=False))
    inner.finish()
    if len(content) not in _CONTENT_BYTES:
        raise _bad("has an unlikely length")
    for number in (0, 1):
        if body.peek() == der.context(number):
            body.take(der.context(number))
    body.take(der.SET)  # signers
    body.finish()
    return SealedKey(encrypted_key, content)


def _recipient(infos: der.Reader) -> bytes:
    info = infos.enter(der.SEQUENCE)
    infos.finish()
    integer(info)
    info.take_tlv()  # who it is for is known from the question
    if algorithm(info) not in _ENCRYPTION_OIDS:
        raise _bad("is not encrypted by SM2")
    encrypted_key = info.take(der.OCTET_STRING)
    info.finish()
    try:
        if len(encrypted_key) > _MAX_KEY_BYTES:
            raise ValueError
        if len(sm2.ciphertext_from_der(encrypted_key)) != 65 + 32 + 16:
            raise ValueError
    except (sm2.InvalidEncoding, ValueError) as error:
        raise _bad("is under a key that is no SM2Cipher of 16 octets") from error
    return encrypted_key


def _bad(why: str) -> Malformed:
    return Malformed(f"the returned key {why}", code="kmc_sealed")
