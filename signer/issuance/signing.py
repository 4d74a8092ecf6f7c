"""Turns a plan into a signed certificate: lint first, then the real signature, then a look at that signature.

The look back catches a signer bound to another key and a fault in the computation before anything is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from core.asn1 import x509 as codec
from core.errors import QianyanError
from core.ports import Signer
from signer._native import sm2
from signer.issuance.lint import Linter
from signer.issuance.template import CertificatePlan


class LocalSigner:
    """A `core.ports.Signer` over a private key at hand: for ceremonies, where no engine runs."""

    def __init__(self, key_id: str, key: sm2.PrivateKey) -> None:
        self._key_id = key_id
        self._key = key
        self._public_key = key.public_key.to_bytes()

    @property
    def key_id(self) -> str:
        """The key's id in the key store."""
        return self._key_id

    @property
    def public_key(self) -> bytes:
        """The uncompressed point, 65 bytes."""
        return self._public_key

    async def sign(self, message: bytes | memoryview) -> bytes:
        """The DER SM2Signature over `message` under the default user id."""
        return sm2.signature_to_der(self._key.sign(message))


def check_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Returns where the DER `signature` verifies. Raises sm2.InvalidSignature, InvalidEncoding or InvalidKey."""
    sm2.PublicKey.from_bytes(public_key).verify(message, sm2.signature_from_der(signature))


async def sign_message(signer: Signer, public_key: bytes, message: bytes) -> bytes:
    """The signature over `message`, checked under the `public_key` that is to have made it."""
    signature = await signer.sign(message)
    try:
        check_signature(public_key, message, signature)
    except (sm2.InvalidSignature, sm2.InvalidEncoding) as error:
        raise _fault() from error
    return signature


async def sign_messages(signer: Signer, public_key: bytes, messages: Sequence[bytes]) -> list[bytes]:
    """As `sign_message`, for many at once: the signer gathers them into batches, and all are checked in one call."""
    signatures = await asyncio.gather(*(signer.sign(message) for message in messages))
    key = sm2.PublicKey.from_bytes(public_key)
    try:
        raw = b"".join([sm2.signature_from_der(signature) for signature in signatures])
    except sm2.InvalidEncoding as error:
        raise _fault() from error
    if sm2.verify_many(key, sm2.digest_many(key, messages), raw) != b"\x01" * len(messages):
        raise _fault()
    return signatures


def _fault() -> QianyanError:
    return QianyanError("the signing key made a signature that does not verify", code="signature_fault")


async def sign_certificate(plan: CertificatePlan, signer: Signer, issuer_public_key: bytes, linter: Linter) -> bytes:
    """The certificate. Raises LintFailure before the issuer's key is used; what `Signer.sign` raises."""
    tbs = plan.tbs()
    linter.check(plan, tbs)
    return codec.join_signed(tbs, await sign_message(signer, issuer_public_key, tbs))
