"""Which authorities we answer for: their certificates, their OCSP signers, and the hashes by which requests name them.

Owns a table made from the store and made anew when `invalidate()` was called (the feed spoke of an authority). Knows
the store and certificates; not requests, HTTP or the clock.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import structlog
from cryptography.hazmat.primitives import hashes

from core import oids
from core.asn1 import der, x509
from core.clock import from_datetime
from core.errors import QianyanError
from core.store import authorities
from core.store.authorities import Authority
from core.store.database import Database
from status import response

_log = structlog.get_logger()


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


#: What a CertID may name its issuer by. SHA-1 is RFC 6960's habit, SHA-256 RFC 9919's, SM3 the GM world's.
_HASHES: Final[dict[str, Callable[[bytes], bytes]]] = {
    oids.SM3: _sm3,
    oids.SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    oids.SHA256: lambda data: hashlib.sha256(data).digest(),
    oids.SHA384: lambda data: hashlib.sha384(data).digest(),
    oids.SHA512: lambda data: hashlib.sha512(data).digest(),
}


@dataclass(frozen=True, slots=True)
class OcspSigner:
    """An authority's delegated OCSP signer. `responder_id`: the DER choice that names it in answers."""

    key_id: str
    public_key: bytes
    certificate: bytes
    not_before_ms: int
    not_after_ms: int
    responder_id: bytes


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority as relying parties meet it. `signer` None: no OCSP for it."""

    id: str
    certificate: bytes | None
    certificate_version: str
    signer: OcspSigner | None


@dataclass(frozen=True, slots=True)
class Issuers:
    """All of them, by id and by what a CertID says before its serial."""

    by_id: dict[str, Issuer]
    by_cert_id: dict[bytes, Issuer]


def cert_id_issuers(subject: bytes, public_key: bytes) -> list[bytes]:
    """Every way in which a CertID may name the issuer with this DER Name and key.

    Hash parameters are NULL or absent; the key is hashed as its 65 bytes, without tag, length and unused bits
    (RFC 6960 §4.1.1).
    """
    ways = []
    for oid, digest in _HASHES.items():
        halves = der.octet_string(digest(subject)) + der.octet_string(digest(public_key))
        ways += [der.sequence(der.oid(oid), parameters) + halves for parameters in (b"", der.null())]
    return ways


def _raw_subject(certificate: bytes) -> bytes:
    """The subject Name as it stands in the certificate."""
    tbs = der.Reader(x509.split_signed(certificate).tbs).enter(der.SEQUENCE)
    tbs.take_tlv(der.context(0))
    for _ in range(4):  # serialNumber, signature, issuer, validity (RFC 5280 §4.1)
        tbs.take_tlv()
    return tbs.take_tlv(der.SEQUENCE)


def _signer(authority: Authority, responder_id: Literal["name", "key"]) -> OcspSigner | None:
    if authority.certificate is None or authority.ocsp_key_id is None or authority.ocsp_certificate is None:
        return None
    try:
        parsed = x509.load_certificate(authority.ocsp_certificate)
        public_key = x509.public_key_of_certificate(authority.ocsp_certificate)
        subject = _raw_subject(authority.ocsp_certificate)
    except QianyanError as error:
        _log.error("ocsp_signer_unusable", authority=authority.id, code=error.code)
        return None
    by_name = responder_id == "name"
    return OcspSigner(
        key_id=authority.ocsp_key_id,
        public_key=public_key,
        certificate=authority.ocsp_certificate,
        not_before_ms=from_datetime(parsed.not_valid_before_utc),
        not_after_ms=from_datetime(parsed.not_valid_after_utc),
        responder_id=response.responder_by_name(subject) if by_name else response.responder_by_key(public_key),
    )


class IssuerTable:
    """Gives the issuers as the store has them."""

    def __init__(self, database: Database, responder_id: Literal["name", "key"]) -> None:
        self._database = database
        self._responder_id: Literal["name", "key"] = responder_id
        self._lock = asyncio.Lock()
        self._current: Issuers | None = None
        self._changes = 0

    def invalidate(self) -> None:
        """The next `get()` asks the store."""
        self._changes += 1
        self._current = None

    def signed_by(self, key_id: str | None) -> list[str]:
        """The authorities, of those known now, whose answers are signed with `key_id`."""
        if self._current is None:
            return []
        signed = self._current.by_id.values()
        return [issuer.id for issuer in signed if issuer.signer is not None and issuer.signer.key_id == key_id]

    async def get(self) -> Issuers:
        """All issuers. Raises Unavailable where the store has to be asked and cannot be."""
        if self._current is not None:
            return self._current
        async with self._lock:
            while self._current is None:
                changes = self._changes
                issuers = await self._load()
                if changes == self._changes:  # otherwise it may be older than the last change
                    self._current = issuers
            return self._current

    async def _load(self) -> Issuers:
        async with self._database.read() as connection:
            rows = await authorities.list_all(connection)
        by_id: dict[str, Issuer] = {}
        by_cert_id: dict[bytes, Issuer] = {}
        for row in rows:
            version = "" if row.certificate is None else hashlib.sha256(row.certificate).hexdigest()[:32]
            issuer = Issuer(row.id, row.certificate, version, _signer(row, self._responder_id))
            by_id[row.id] = issuer
            for way in cert_id_issuers(row.subject, row.public_key):
                by_cert_id[way] = issuer
        return Issuers(by_id, by_cert_id)
