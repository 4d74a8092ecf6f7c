"""Proofs about the audit record as documents: made from the store, checked by anyone without it.

A proof is JSON. Inclusion: the row as it is hashed, where it stands, and the way up to a checkpoint. Consistency: two
checkpoints, and that the later record only added to the earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from core import merkle
from core.checkpoint import Checkpoint
from core.errors import Malformed, NotFound
from core.ports import SignatureVerifier
from core.store import audit_tree
from core.store.schema import audit

_INCLUSION: Final = "inclusion"
_CONSISTENCY: Final = "consistency"
#: A tree of 2^63 rows needs fewer.
_MOST_HASHES: Final = 128
_MOST_BYTES: Final = 1 << 20


async def _newest(connection: AsyncConnection) -> Checkpoint:
    checkpoint = await audit_tree.newest_checkpoint(connection)
    if checkpoint is None:
        raise NotFound("there is no checkpoint of the audit record yet", code="audit_checkpoint")
    return checkpoint


async def prove_row(
    connection: AsyncConnection, seq: int, archived: Callable[[int], bytes] | None = None
) -> dict[str, Any]:
    """That row `seq` is in the record, by the newest checkpoint. Raises NotFound (code "audit_seq", "audit_archived").

    archived: gives a row that is no longer in the store, as it was hashed.
    """
    checkpoint = await _newest(connection)
    proof = await audit_tree.inclusion_proof(connection, seq, checkpoint.size)
    row = (await connection.execute(select(audit).where(audit.c.seq == seq))).one_or_none()
    if row is None and archived is None:
        raise NotFound(f"row {seq} is in an archive alone; name it, too", code="audit_archived")
    record = audit_tree.row_bytes(row) if row is not None else archived(seq) if archived is not None else b""
    return {
        "kind": _INCLUSION,
        "record": record.decode(),
        "seq": seq,
        "proof": [one.hex() for one in proof],
        "checkpoint": checkpoint.encode().decode(),
    }


async def prove_growth(connection: AsyncConnection, earlier: Checkpoint) -> dict[str, Any]:
    """That the record of the newest checkpoint only added to that of `earlier`. Raises NotFound (code "audit_seq")."""
    newest = await _newest(connection)
    proof = await audit_tree.consistency_proof(connection, earlier.size, newest.size)
    return {
        "kind": _CONSISTENCY,
        "earlier": earlier.encode().decode(),
        "proof": [one.hex() for one in proof],
        "checkpoint": newest.encode().decode(),
    }


def check_proof(data: bytes, verify: SignatureVerifier, public_key: bytes) -> dict[str, Any]:
    """Checks a proof document with nothing but the key that signs checkpoints (65 bytes), and returns it.

    Raises Malformed (code "audit_proof"), Refused (code "merkle_proof", "signature").
    """
    document = _read(data)
    checkpoint = _checkpoint(document, "checkpoint", verify, public_key)
    hashes = _hashes(document.get("proof"))
    if document["kind"] == _INCLUSION:
        seq, record = document.get("seq"), document.get("record")
        if not isinstance(seq, int) or not isinstance(record, str) or _seq_of(record) != seq:
            raise _malformed()
        leaf = merkle.leaf_hash(record.encode())
        merkle.check_inclusion(leaf, seq - 1, checkpoint.size, hashes, checkpoint.root)
    else:
        earlier = _checkpoint(document, "earlier", verify, public_key)
        merkle.check_consistency(earlier.size, checkpoint.size, earlier.root, checkpoint.root, hashes)
    return document


def _malformed() -> Malformed:
    return Malformed("this is no proof about an audit record", code="audit_proof")


def _read(data: bytes) -> dict[str, Any]:
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError("too long")
        document = orjson.loads(data)
    except ValueError as error:
        raise _malformed() from error
    if not isinstance(document, dict) or document.get("kind") not in (_INCLUSION, _CONSISTENCY):
        raise _malformed()
    return document


def _seq_of(record: str) -> object:
    """The row's own number, the first member of the array that it is hashed as."""
    try:
        row = orjson.loads(record)
    except orjson.JSONDecodeError:
        return None
    return row[0] if isinstance(row, list) and row else None


def _hashes(values: object) -> Sequence[bytes]:
    if not isinstance(values, list) or len(values) > _MOST_HASHES:
        raise _malformed()
    try:
        found = [bytes.fromhex(value) for value in values]
    except (TypeError, ValueError) as error:
        raise _malformed() from error
    if any(len(one) != merkle.HASH_BYTES for one in found):
        raise _malformed()
    return found


def _checkpoint(document: Mapping[str, Any], name: str, verify: SignatureVerifier, public_key: bytes) -> Checkpoint:
    text = document.get(name)
    if not isinstance(text, str):
        raise _malformed()
    checkpoint = Checkpoint.decode(text.encode())
    checkpoint.check(verify, public_key)
    return checkpoint
