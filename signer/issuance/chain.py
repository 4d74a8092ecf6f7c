"""An authority with the certificates above it, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import NotFound, Refused
from core.model import KeyPurpose, KeyState
from core.store import authorities, keys
from core.store.authorities import Authority

#: More authorities above one another than this is a loop in the store.
MAX_CHAIN: Final = 8
_OURS: Final = frozenset({KeyPurpose.CERTIFICATE, KeyPurpose.OCSP, KeyPurpose.AUDIT, KeyPurpose.STATUS_SET})


@dataclass(frozen=True, slots=True)
class AuthorityChain:
    """An authority that can issue. `key_id`: its signing key; `certificates`: its own first, the root's last."""

    authority: Authority
    key_id: str
    certificates: tuple[bytes, ...]


async def load_chain(connection: AsyncConnection, authority_id: str) -> AuthorityChain:
    """Raises NotFound (code "authority_unknown"), Refused (code "authority_not_ready") where it cannot issue yet."""
    return chain_of(await authorities.list_all(connection), authority_id)


def chain_of(known: Sequence[Authority], authority_id: str) -> AuthorityChain:
    """As `load_chain`, where all authorities are known already."""
    by_id = {authority.id: authority for authority in known}
    authority = by_id.get(authority_id)
    if authority is None:
        raise NotFound(f"there is no authority {authority_id!r}", code="authority_unknown")
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
        above = None if above.parent_id is None else by_id.get(above.parent_id)
    return AuthorityChain(authority, authority.key_id, tuple(found))


async def authority_keys(
    connection: AsyncConnection, public_keys: Sequence[bytes], known: Sequence[Authority]
) -> set[bytes]:
    """Those of `public_keys` that no holder may have, and the keys of all authorities, which are `known`."""
    same = await keys.with_public_keys(connection, public_keys)
    ours = {key.public_key for key in same if key.purpose in _OURS}
    return ours | {authority.public_key for authority in known}


def refuse_one_of(reserved: set[bytes], public_key: bytes) -> Refused | None:
    """The refusal (code "key_reused") of a request for an authority's own key, or an OCSP signer's."""
    if public_key not in reserved:
        return None
    return Refused("the public key is an authority's own", code="key_reused", field="csr.public_key")


async def require_active(connection: AsyncConnection, key_id: str) -> None:
    """Raises Refused (code "key_frozen", "key_compromised", "key_retired") where the key may not sign."""
    state = (await keys.get(connection, key_id)).state
    if state is not KeyState.ACTIVE:
        raise Refused(f"key {key_id!r} is {state.value} and signs nothing", code=f"key_{state.value}")
