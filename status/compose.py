"""What is to be signed for a request: ResponseData, and until when it counts.

One rule for whoever makes answers (status.responder one by one, status.presign in advance): an answer never outlives
its signer's certificate, `unknown` is short-lived, times are whole seconds and thisUpdate is producedAt. status.live
keeps the same rules in compiled code. Knows bytes and times; not the store, keys or the event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from core.errors import Refused
from core.model import CertificateStatus
from status import response
from status.issuers import OcspSigner
from status.settings import OcspSettings

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Composed:
    """ResponseData to be signed, and its times. `known`: all were issued."""

    tbs: bytes
    this_update_ms: int
    next_update_ms: int
    known: bool


def compose(
    settings: OcspSettings,
    signer: OcspSigner,
    asked: Sequence[tuple[bytes, CertificateStatus]],
    now_ms: int,
    nonce: bytes | None = None,
) -> Composed:
    """The ResponseData about CertIDs and what the store says of them.

    Raises Refused (code "ocsp_signer_expired") where the signer's certificate is not valid now.
    """
    if not signer.not_before_ms <= now_ms < signer.not_after_ms:
        raise Refused("the OCSP signer's certificate is not valid now", code="ocsp_signer_expired")
    this_ms = now_ms // 1000 * 1000
    cutoff_ms = archive_cutoff_ms(settings, this_ms)
    singles, ends_ms = [], []
    for cert_id, status in asked:
        known = status.state is not None
        until_ms = next_update_ms(settings, signer, this_ms, known=known)
        singles.append(response.single_response(cert_id, status, this_ms, until_ms, cutoff_ms if known else None))
        ends_ms.append(until_ms)
    tbs = response.response_data(signer.responder_id, this_ms, singles, nonce)
    return Composed(tbs, this_ms, min(ends_ms), all(status.state is not None for _, status in asked))


def next_update_ms(settings: OcspSettings, signer: OcspSigner, this_ms: int, *, known: bool) -> int:
    """When an answer ends: never past the signer's certificate."""
    life_s = settings.response_life_s
    if not known:
        life_s = min(life_s, settings.unknown_life_s)
    return min(this_ms + life_s * 1000, signer.not_after_ms)


def archive_cutoff_ms(settings: OcspSettings, this_ms: int) -> int | None:
    """producedAt less the retention interval (RFC 6960 §4.4.4); None where it is not told."""
    return this_ms - settings.archive_cutoff_days * _DAY_MS if settings.archive_cutoff_days else None


@lru_cache(maxsize=64)
def signer_digest(signer: OcspSigner, settings: OcspSettings) -> bytes:
    """Of all that an answer owes to its signer and to our settings: where it differs, the answers do."""
    said = (signer.certificate, signer.responder_id, settings.response_life_s, settings.archive_cutoff_days)
    return hashlib.sha256(repr(said).encode()).digest()
