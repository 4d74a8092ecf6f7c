"""Settings of application signing and verification, each with its default."""

from __future__ import annotations

from pydantic import Field

from core.settings import Settings


class SigningSettings(Settings):
    """Bounds on what one request may ask for."""

    max_items: int = Field(default=1_024, ge=1)
    """The most inputs in one `POST /v1/sign`."""

    max_data_bytes: int = Field(default=1 << 20, ge=1)
    """The most bytes of one `data`, decoded."""

    max_digests: int = Field(default=65_536, ge=1)
    """The most digests in one `POST /v1/keys/{key}/sign`."""

    max_body_bytes: int = Field(default=8 << 20, ge=1_024)
    """The most bytes of a JSON body of the calls here."""

    max_ciphertexts: int = Field(default=1_024, ge=1)
    """The most ciphertexts in one `POST /v1/decrypt`."""

    max_verify_items: int = Field(default=10_000, ge=1)
    """The most items in one `POST /v1/verify`."""

    max_verify_body_bytes: int = Field(default=16 << 20, ge=1_024)
    """The most bytes of a JSON body of `POST /v1/verify`."""

    max_certificate_bytes: int = Field(default=65_536, ge=1)
    """The most bytes of one certificate, decoded."""

    max_verifying: int = Field(default=131_072, ge=1)
    """The most items under verification at a time; past it a request is refused at once (503 with Retry-After)."""

    verify_inline_max: int = Field(default=4, ge=0)
    """The most items that are verified on the event loop; more are verified in a thread."""

    verify_inline_max_bytes: int = Field(default=16_384, ge=0)
    """The most bytes of data and certificates that are worked through on the event loop."""
