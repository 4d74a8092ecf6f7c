"""The audit record's shape and chain.

A row's hash is SM3 over the hash before it and the row in canonical JSON (RFC 8785's order and separators over text
and integers only), so that changing, removing or reordering any row shows. Knows bytes; `core.store.audit` keeps them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes

#: The hash before the first row.
GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who did what to which thing, with what outcome.

    actor: "cli:USER", "token:ID" or "system". action: dotted, e.g. "certificate.issue". subject: an id, never
    personal data. outcome: "ok" or an error's code. detail: small, no secrets, no personal data.
    """

    actor: str
    action: str
    subject: str
    outcome: str = "ok"
    detail: dict[str, str | int] = field(default_factory=dict)


def record_bytes(seq: int, at_ms: int, event: AuditEvent, detail_json: str) -> bytes:
    """A row as it is hashed: a JSON array of its members, in the order of the arguments."""
    row = [seq, at_ms, event.actor, event.action, event.subject, event.outcome, detail_json]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def link(previous: bytes, record: bytes) -> bytes:
    """The hash of a row, from the hash before it and `record_bytes`: 32 bytes."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(previous)
    digest.update(record)
    return digest.finalize()


def chain(previous: bytes, seq: int, at_ms: int, event: AuditEvent, detail_json: str) -> bytes:
    """The hash of a row: 32 bytes."""
    return link(previous, record_bytes(seq, at_ms, event, detail_json))


def encode_detail(event: AuditEvent) -> str:
    """The detail as it is stored and hashed."""
    return json.dumps(event.detail, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
