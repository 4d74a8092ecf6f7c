"""What the packages ask of each other, as Protocols, so that siblings never import one another.

`status` and `crl` are handed a `Signer` and a `SignatureVerifier`; `signer` is handed a `StatusSource`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from core.model import CertificateStatus


@runtime_checkable
class Signer(Protocol):
    """One signing key, bound: asks for SM2 with SM3 signatures (GB/T 32918.2 §6.1) under the default user id."""

    @property
    def key_id(self) -> str:
        """The key's id in the key store."""
        ...

    @property
    def public_key(self) -> bytes:
        """The uncompressed point, 65 bytes (04 ‖ X ‖ Y)."""
        ...

    async def sign(self, message: bytes | memoryview) -> bytes:
        """The DER SM2Signature (GM/T 0009 §7.3) over `message`, which is not kept.

        Raises Refused (code `key_frozen`, `key_compromised`, `key_retired`), Busy or Unavailable.
        """
        ...


class BatchSigner(Protocol):
    """One signing key that takes many messages at once, as `Signer` in all else."""

    @property
    def public_key(self) -> bytes:
        """The uncompressed point, 65 bytes (04 ‖ X ‖ Y)."""
        ...

    def sign_now(self, messages: list[bytes]) -> bytes | None:
        """n·64 bytes r ‖ s, in order, where nothing must be awaited first and they are few enough; else None.

        The key's state and the account of its uses are looked at once for all. Raises as `Signer.sign`.
        """
        ...

    async def sign_many(self, messages: list[bytes]) -> bytes:
        """n·64 bytes r ‖ s, in order. Raises as `Signer.sign`."""
        ...


class SignatureVerifier(Protocol):
    """Checks one SM2 with SM3 signature under the default user id."""

    def __call__(self, public_key: bytes, message: bytes | memoryview, signature: bytes) -> None:
        """Returns where the DER `signature` is that of `message` under `public_key` (65 bytes).

        Raises core.errors.Refused (code `signature`) where it is not; never returns a truth value.
        """
        ...


class StatusSource(Protocol):
    """Tells what the store knows of certificates, never older than the last commit."""

    async def statuses(self, authority_id: str, serials: Sequence[int]) -> list[CertificateStatus]:
        """One status per serial, in order. Raises Unavailable where the store cannot be asked."""
        ...
