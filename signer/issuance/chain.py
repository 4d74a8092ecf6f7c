"""An authority with the certificates above it, read from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import Refused
from core.model import KeyPurpose, KeyState
from core.store import authorities, keys
from core.store.authorities import Authority

#: More authorities above one another than this is a loop in the store.
MAX_CHAIN: Final = 8


@dataclass(frozen=True, slots=True)
class AuthorityChain:
    """An authority that can issue. `key_id`: its signing key; `certificates`: its own first, the root's last."""

    authority: Authority
    key_id: str
    certificates: tuple[bytes, ...]


async def load_chain(connection: AsyncConnection, authority_id: str) -> AuthorityChain:
    """Raises NotFound (code "authority_unknown"), Refused (code "authority_not_ready") where it cannot issue yet."""
    authority = await authorities.get(connection, authority_id)
    if authority.certificate is None or authority.key_id is None:
        raise Refused(
            f"authority {authority_id!r} has no certificate or no key here, and cannot issue",
            code="authority_not_ready",
            field="authority",
        )
    found: list[bytes] = []
    above: Authority | None = authority
    while above is not None and above.certificate is not None and len(found) < MAX_CHAIN:
        found.append(above.certificate)
        above = None if above.parent_id is None else await authorities.get(connection, above.parent_id)
    return AuthorityChain(authority, authority.key_id, tuple(found))


async def refuse_authority_key(connection: AsyncConnection, public_key: bytes) -> None:
    """Raises Refused (code "key_reused") where `public_key` is that of an authority or an OCSP signer."""
    same = await keys.find_by_public_key(connection, public_key)
    ours = any(key.purpose in (KeyPurpose.CERTIFICATE, KeyPurpose.OCSP, KeyPurpose.AUDIT) for key in same)
    if ours or any(authority.public_key == public_key for authority in await authorities.list_all(connection)):
        raise Refused("the public key is an authority's own", code="key_reused", field="csr.public_key")


async def require_active(connection: AsyncConnection, key_id: str) -> None:
    """Raises Refused (code "key_frozen", "key_compromised", "key_retired") where the key may not sign."""
    state = (await keys.get(connection, key_id)).state
    if state is not KeyState.ACTIVE:
        raise Refused(f"key {key_id!r} is {state.value} and signs nothing", code=f"key_{state.value}")
