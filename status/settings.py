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

    cache_bytes: int = Field(default=128 * 1024 * 1024, ge=0)
    """Memory for signed answers in each process, least recently used out first; 0 keeps none."""

    max_waiting: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most serials that may wait for the store at a time; one more is refused at once (tryLater)."""

    store_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """How long an answer waits for the store before it becomes tryLater."""

    http_max_age_s: int = Field(default=300, ge=0, le=86_400)
    """Longest that a proxy is told to keep an answer to a GET without asking again. A shorter time shows a revocation
    sooner, a longer one saves requests; it never passes the moment at which the answer is made anew."""

    max_serials: int = Field(default=10_000, ge=1, le=100_000)
    """Most serials in one `POST /v1/status`."""
