"""What a judge reports of an object it has accepted: plain values for a test to compare."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class KeyPair:
    """An SM2 key: 32 bytes of d, 65 bytes of point."""

    private: bytes
    public: bytes


@dataclass(frozen=True)
class Csr:
    """A PKCS#10 request and the key that made it."""

    private: bytes
    public: bytes
    der: bytes


@dataclass(frozen=True)
class CertificateView:
    """What BouncyCastle reads in a certificate."""

    subject: str
    issuer: str
    serial: int
    not_before: datetime
    not_after: datetime
    public: bytes
    spki_algorithm: bytes
    signature_algorithm: bytes
    extensions: list[str]
    critical: list[str]
    key_usage: set[str]
    extended_key_usage: list[str]
    is_ca: bool
    path_length: int | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None
    crl_uris: list[str]


@dataclass(frozen=True)
class CrlEntry:
    """A listed serial; `reason` is -1 where the entry has no reason code."""

    reason: int
    date: datetime


@dataclass(frozen=True)
class CrlView:
    """What BouncyCastle reads in a CRL whose signature it has verified."""

    this_update: datetime
    next_update: datetime | None
    number: int | None
    base_number: int | None
    """The BaseCRLNumber of a delta CRL; None for a complete one."""
    extensions: list[str]
    critical: list[str]
    idp: bool
    idp_critical: bool
    idp_uris: list[str]
    idp_name: bytes | None
    only_user: bool
    only_ca: bool
    only_attribute: bool
    indirect: bool
    entries: int
    listed: dict[int, CrlEntry]
    """Of the serials asked about, those that are listed."""
    serials: set[int]
    """Every serial, where the call asked for `list_all`; empty otherwise."""


@dataclass(frozen=True)
class OcspView:
    """What BouncyCastle reads in an OCSP response whose signature, responder and CertID it has checked."""

    status: str
    """`good`, `revoked` or `unknown`."""
    reason: int | None
    """Reason code of a revoked certificate; -1 where the answer gives none; None when not revoked."""
    revoked_at: datetime | None
    this_update: datetime
    next_update: datetime | None
    produced_at: datetime
    nonce: bytes | None
    digest: str
    cert_id: bytes
    """The CertID's DER, to compare with the request's."""
    responses: int
    responder: str
    responder_id: str
    """`name` or `key`."""
    responder_not_after: datetime
    no_check: bool
    single_extensions: list[str]
