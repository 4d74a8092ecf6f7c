"""The plaintext of a key file: PrivateKeyInfo (RFC 5958 §2) of an SM2 key, as OpenSSL writes it.

Knows bytes and the native key; not files or encryption. Plaintexts are bytearrays that their owner wipes; the scalar
is copied only into bytearrays that are wiped here, and into the native key.
"""

from __future__ import annotations

from typing import Final, cast

from core import oids
from core.asn1 import der
from core.errors import Malformed
from signer._native import sm2
from signer.engine.pbes2 import as_bytes, wipe

_ALGORITHM: Final = der.sequence(der.oid(oids.EC_PUBLIC_KEY), der.oid(oids.SM2_CURVE))
_CURVE: Final = der.oid(oids.SM2_CURVE)
_VERSION_0: Final = der.integer(0)

# ECPrivateKey ::= SEQUENCE {version 1, privateKey OCTET STRING (32), publicKey [1] BIT STRING} (RFC 5915 §3), its
# curve named by the AlgorithmIdentifier outside; laid out once with zeros, so that only the scalar's octets are secret.
_EC_PRIVATE_KEY: Final = der.sequence(
    der.integer(1), der.octet_string(bytes(32)), der.tlv(der.context(1), der.bit_string(bytes(65)))
)
_TEMPLATE: Final = der.sequence(_VERSION_0, _ALGORITHM, der.octet_string(_EC_PRIVATE_KEY))
_SCALAR_AT: Final = len(_TEMPLATE) - 65 - 5 - 32  # the point, the octets that introduce it, the scalar
#: How a key file's plaintext begins, whoever wrote it: the evidence that the passphrase was right. The length octets
#: differ between writers, the 12 octets after them do not.
_MARK: Final = _VERSION_0 + _ALGORITHM[:9]


def encode(key: sm2.PrivateKey) -> bytearray:
    """The PrivateKeyInfo; the caller wipes it."""
    plain = bytearray(_TEMPLATE)
    scalar = bytearray(32)
    try:
        key.export_into(scalar)
        plain[_SCALAR_AT : _SCALAR_AT + 32] = scalar
        plain[-65:] = key.public_key.to_bytes()
        return plain
    except BaseException:
        wipe(plain)
        raise
    finally:
        wipe(scalar)


def looks_right(plain: bytearray) -> bool:
    """Whether this begins as a PrivateKeyInfo of an EC key does; chance does that once in 2^96."""
    return plain[:1] == b"\x30" and any(plain.startswith(_MARK, at) for at in (2, 3, 4))


def decode(plain: bytearray) -> sm2.PrivateKey:
    """The key, checked against the public key beside it. Raises Malformed."""
    outer = der.Reader(as_bytes(plain))
    body = outer.enter(der.SEQUENCE)
    outer.finish()
    if body.integer() != 0 or body.take_tlv(der.SEQUENCE) != _ALGORITHM:
        raise Malformed("the key is not an SM2 key", code="key_algorithm")
    wrapped = body.enter(der.OCTET_STRING)  # attributes [0] may follow; they are nothing to us
    ec_key = wrapped.enter(der.SEQUENCE)
    wrapped.finish()
    if ec_key.integer() != 1:
        raise Malformed("the version of the ECPrivateKey is not 1", code="key_algorithm")
    scalar = cast(bytearray, ec_key.take(der.OCTET_STRING))  # a slice of a bytearray is one
    try:
        if ec_key.peek() == der.context(0) and ec_key.enter(der.context(0)).take_tlv() != _CURVE:
            raise Malformed("the key is on another curve", code="key_algorithm")
        public = bytes(ec_key.enter(der.context(1)).bit_string())
        return from_scalar(scalar, public)
    finally:
        wipe(scalar)


def from_scalar(scalar: bytearray, public: bytes) -> sm2.PrivateKey:
    """The native key of `scalar`; d·G must be `public`. Raises Malformed. The caller wipes `scalar`."""
    if len(scalar) != 32:
        raise Malformed("the private key has not 32 octets", code="key_length")
    try:
        key = sm2.PrivateKey.from_bytes(scalar)
    except sm2.InvalidKey as error:
        raise Malformed("the private key is out of range", code="key_range") from error
    if key.public_key.to_bytes() != public:
        key.wipe()
        raise Malformed("the private key does not belong to the public key beside it", code="key_pair")
    return key
