"""What an operator may set about status answers: the `[ocsp]` table of the settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.settings import Settings


class OcspSettings(Settings):
    """The `[ocsp]` table. Every bound on what comes from outside is here."""

    max_request_bytes: int = Field(default=10_000, ge=256, le=1_000_000)
    """Longest OCSP request taken; a longer one is refused with 413."""

    max_requests: int = Field(default=32, ge=1, le=1_000)
    """Most certificates asked about in one OCSP request; more are refused with 413."""

    response_life_s: int = Field(default=3_600, ge=60, le=86_400)
    """From thisUpdate to nextUpdate. At most 24 hours; answers are made anew at half of it."""

    unknown_life_s: int = Field(default=60, ge=1, le=3_600)
    """The same for `unknown`: short, because a serial may be issued at any moment."""

    responder_id: Literal["name", "key"] = "name"
    """How an answer names its signer. `key` is a SHA-1 hash of its key (RFC 6960 §4.2.1), which a strict GM system
    does not have."""

    nonce: Literal["optional", "ignore", "required"] = "optional"
    """What is done with nonces (RFC 9654): "optional" signs a fresh answer for a request that has one; "ignore" gives
    it the answer that others get, without the nonce; "required" refuses a request without one (malformedRequest)."""

    archive_cutoff_days: int = Field(default=0, ge=0, le=36_500)
    """Tells in each answer that status is kept for so long after expiry (archive cutoff, RFC 6960 §4.4.4); 0 tells
    nothing. Years are not retired from the store before that (store.certificate_years), so any value up to the age of
    the service is true."""

    presign_per_s: int = Field(default=0, ge=0, le=1_000_000)
    """How many answers a second the leading worker makes in advance, for every certificate that has not expired, and
    keeps in Redis; 0 makes none. Needs `[redis]`. All are renewed in time where it is at least their number by 0.3 ×
    `response_life_s`."""

    presign_hashes: tuple[Literal["sm3", "sha1", "sha256", "sha384", "sha512"], ...] = ("sm3",)
    """Under which hashes of the CertID (with NULL parameters) answers are made in advance."""

    cache_bytes: int = Field(default=128 * 1024 * 1024, ge=0)
    """Memory for signed answers in each process, least recently used out first; 0 keeps none."""

    hot_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Memory for answers written out ready to send, in each process (`public.hot_path`); 0 keeps none. They share
    the signed octets with the cache above."""

    status_table_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Memory for certificates' statuses in each process, so that an answer with a nonce need not ask the store
    (`public.hot_path`); about 400 bytes each."""

    max_waiting: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most serials that may wait for the store at a time; one more is refused at once (tryLater)."""

    store_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """How long an answer waits for the store before it becomes tryLater."""

    http_max_age_s: int = Field(default=300, ge=0, le=86_400)
    """Longest that a proxy is told to keep an answer to a GET without asking again. A shorter time shows a revocation
    sooner, a longer one saves requests; it never passes the moment at which the answer is made anew."""

    max_serials: int = Field(default=10_000, ge=1, le=100_000)
    """Most serials in one `POST /v1/status`."""
