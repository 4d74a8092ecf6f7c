"""SM2 as the load side needs it: the one place that knows the native core. Keys, signatures in DER, nothing else."""

from __future__ import annotations

from signer._native import sm2

PrivateKey = sm2.PrivateKey
InvalidSignature = sm2.InvalidSignature
sign_many = sm2.sign_many
verify_many = sm2.verify_many


def sign(key: sm2.PrivateKey, message: bytes) -> bytes:
    """The DER SM2Signature (GM/T 0009 §7.3) over a message, under the standard identifier."""
    return sm2.signature_to_der(key.sign(message))


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """A DER signature under a 65-octet point. Raises InvalidSignature, or ValueError where it is not DER or a point."""
    sm2.PublicKey.from_bytes(public_key).verify(message, sm2.signature_from_der(signature))


def verify_digest(public_key: bytes, digest: bytes, signature: bytes) -> None:
    """The same over e = SM3(Z ‖ M), a digest that was made before."""
    sm2.PublicKey.from_bytes(public_key).verify_digest(digest, sm2.signature_from_der(signature))


def public_key(point: bytes) -> sm2.PublicKey:
    """A public key from its 65 octets."""
    return sm2.PublicKey.from_bytes(point)
