"""Raw SM2 by two PyPI libraries: tongsuopy (Tongsuo, C) and gmssl (pure Python).

Tongsuo signs and verifies messages under the default ID. gmssl works on the digest e; it is known to be
wrong at two edges (it takes s + n for s, and refuses a signature whose sG equals tP) and not to check C3.
So it is asked about ordinary and bit-flipped signatures only, never about those edges.
"""

from typing import Any

from tests.judges import JudgeMissing, Refused

try:
    from tongsuopy.crypto import hashes
    from tongsuopy.crypto.asymciphers import ec
    from tongsuopy.crypto.exceptions import InvalidSignature as TongsuoInvalid
except ImportError as error:
    raise JudgeMissing("tongsuopy is not installed: pip install tongsuopy") from error

try:
    from gmssl.sm2 import CryptSM2
    from gmssl.sm3 import sm3_hash
except ImportError as error:
    raise JudgeMissing("gmssl is not installed: pip install gmssl") from error


# ---- Tongsuo


def tongsuo_public(private: bytes) -> bytes:
    """The point of a private key."""
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SM2())
    numbers = key.public_key().public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def tongsuo_sign(private: bytes, message: bytes) -> bytes:
    """DER signature over a message, default ID."""
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SM2())
    return key.sign(message, ec.ECDSA(hashes.SM3()))


def tongsuo_verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raise Refused unless the DER signature over the message is the key's, default ID."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SM2(), public)
    except ValueError as error:
        raise Refused("public key") from error
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SM3()))
    except TongsuoInvalid as error:
        raise Refused("signature") from error


# ---- gmssl


def _gmssl(public: bytes, private: bytes = b"") -> Any:
    """A CryptSM2 for the key.

    Its constructor strips every leading "0" and "4" from the hexadecimal it is given, and so damages each
    point whose x begins with one of them; the attribute is set afterwards, whole.
    """
    tool = CryptSM2(private_key=private.hex(), public_key="", mode=1)
    tool.public_key = public[1:].hex()
    return tool


def gmssl_sm3(data: bytes) -> bytes:
    """SM3."""
    return bytes.fromhex(sm3_hash(list(data)))


def gmssl_sign_digest(private: bytes, public: bytes, digest: bytes, nonce: int) -> bytes:
    """64 bytes r, s over e with the nonce given."""
    signature = _gmssl(public, private).sign(digest, f"{nonce:064x}")
    if signature is None:
        raise Refused("this nonce gives no signature")
    return bytes.fromhex(signature)


def gmssl_verify_digest(public: bytes, digest: bytes, signature: bytes) -> None:
    """Raise Refused unless the 64 bytes r, s over e are the key's. Not for s >= n nor for sG = tP."""
    try:
        valid = _gmssl(public).verify(signature.hex(), digest)
    except TypeError as error:  # its way of saying that a point is infinite
        raise Refused("point at infinity") from error
    if not valid:
        raise Refused("signature")


def gmssl_encrypt(public: bytes, plaintext: bytes) -> bytes:
    """C1 C3 C2 with the 04 in front."""
    while (sealed := _gmssl(public).encrypt(plaintext)) is None:
        pass  # an all-zero key stream: it asks for another k this way
    return b"\x04" + sealed


def gmssl_decrypt(private: bytes, ciphertext: bytes) -> bytes:
    """The plaintext of C1 C3 C2. C3 is not checked by it: compare the plaintext."""
    return bytes(_gmssl(b"", private).decrypt(ciphertext[1:]))
