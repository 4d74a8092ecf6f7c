"""Checks one SM2 with SM3 signature: the core.ports.SignatureVerifier that siblings are handed.

Knows bytes and the native core. Raises; never returns a truth value.
"""

from __future__ import annotations

from core.errors import Refused
from signer._native import sm2


def verify_signature(public_key: bytes, message: bytes | memoryview, signature: bytes) -> None:
    """Returns where the DER `signature` is that of `message` under `public_key` (65 bytes), by the default user id.

    Raises Refused (code "signature") otherwise, also where the key or the signature is malformed.
    """
    try:
        key = sm2.PublicKey.from_bytes(public_key)
        key.verify(message, sm2.signature_from_der(signature), user_id=sm2.DEFAULT_ID)
    except (sm2.InvalidKey, sm2.InvalidEncoding, sm2.InvalidSignature) as error:
        raise Refused("the signature does not verify", code="signature") from error
