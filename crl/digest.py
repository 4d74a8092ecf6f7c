"""SM3 of a CRL: what the audit record keeps of it, and what its entity tag is made of."""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives import hashes


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


async def sm3(data: bytes) -> bytes:
    """The SM3 digest, in a thread: a long CRL takes longer than the event loop may stand still."""
    return await asyncio.to_thread(_sm3, data)
