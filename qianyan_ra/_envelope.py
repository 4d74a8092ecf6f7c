"""Opens what comes for the holder: SM2EnvelopedKey (GM/T 0009-2012 §7.4), of an issue or of a recovery.

Where the signing key is in a token, the token opens it (SKF_ImportECCKeyPair) and the private key never leaves it; this
is for keys in software. The standard names no padding: 32 octets are written, padded forms of others are read, and what
comes out must fit the public key in the envelope.
"""

from __future__ import annotations

from typing import Final, cast

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qianyan_ra import _der as der
from qianyan_ra import _oids as oids
from qianyan_ra._arithmetic import Arithmetic
from qianyan_ra._errors import BadMessage, KeyTrouble
from qianyan_ra._keys import SoftwareKey
from qianyan_ra._pem import wipe

_ECB: Final = frozenset({oids.SM4_ECB, oids.SM4})


def open_enveloped_key(envelope: bytes, signing_key: SoftwareKey, *, arithmetic: Arithmetic = "native") -> SoftwareKey:
    """The encryption key in `envelope`. Raises BadMessage: "der", "enveloped_key", "sm2_decrypt" (for another key)."""
    whole = der.Reader(envelope)
    body = whole.enter(der.SEQUENCE)
    whole.finish()
    if body.enter(der.SEQUENCE).take_tlv(der.OBJECT_IDENTIFIER) not in _ECB:
        raise BadMessage("the key is not under SM4 in ECB", code="enveloped_key")
    cipher = body.take_tlv(der.SEQUENCE)
    public_key, sealed = body.bit_string(), body.bit_string()
    body.finish()
    if len(sealed) not in (32, 48):
        raise BadMessage("the sealed key has a length that none has", code="enveloped_key")
    symmetric = signing_key.decrypt(cipher)
    out = bytearray(len(sealed) + 15)
    try:
        if len(symmetric) != 16:
            raise BadMessage("the key that seals it is not an SM4 key", code="enveloped_key")
        block = algorithms.SM4(cast(bytes, symmetric))
        Cipher(block, modes.ECB()).decryptor().update_into(sealed, out)  # noqa: S305 - the standard's mode
        return _fitting(out, len(sealed), public_key, arithmetic)
    finally:
        wipe(symmetric)
        wipe(out)


def _fitting(plain: bytearray, length: int, public_key: bytes, arithmetic: Arithmetic) -> SoftwareKey:
    """The key in the first `length` octets of `plain`: as 32 octets, or as a DER INTEGER with padding behind it."""
    forms = [plain[:32]]
    if length == 48 and plain[0] == der.INTEGER and plain[1] <= 33:
        forms.append(plain[2 : 2 + plain[1]].rjust(32, b"\x00")[-32:])
    for scalar in forms:
        try:
            key = SoftwareKey.from_scalar(scalar, arithmetic=arithmetic)
        except KeyTrouble as error:
            if error.code != "key_range":
                raise
            continue
        if key.public_key == public_key:
            return key
        key.wipe()
    raise BadMessage("what is sealed is not the key of its public key", code="enveloped_key")
