"""Settings of the key store and of the engine, each with its default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from core.settings import Settings


class KeyStoreSettings(Settings):
    """How key files are encrypted when they are written. Files say themselves how they are read."""

    kdf: Literal["scrypt", "pbkdf2-hmac-sm3"] = "scrypt"
    """How the passphrase becomes the SM4 key. OpenSSL 3.0's `pkey` opens scrypt files; it does not know HMAC-SM3."""

    scrypt_log2_n: int = Field(default=14, ge=10, le=20)
    """log2 of scrypt's cost N. With r = 8, 14 is the most that `openssl pkey` opens within its 32 MiB."""

    scrypt_r: int = Field(default=8, ge=1, le=16)
    """scrypt's block size; N · r · 128 bytes of memory are used."""

    scrypt_p: int = Field(default=5, ge=1, le=16)
    """scrypt's parallelisation."""

    pbkdf2_iterations: int = Field(default=600_000, ge=10_000, le=10_000_000)
    """Iterations of PBKDF2-HMAC-SM3."""


class EngineSettings(Settings):
    """How signatures are gathered, bounded and accounted for."""

    inline_max: int = Field(default=48, ge=0)
    """The most signatures made on the event loop itself; a thread hop costs about as much as 48 of them."""

    batch_max: int = Field(default=2_048, ge=1)
    """The most signatures in one native call. The state of a key is looked at before each call, so this bounds what is
    under way when a key is frozen, and how long a small request waits behind a large one."""

    max_pending: int = Field(default=131_072, ge=1)
    """The most signatures that wait; past it a request is refused at once (503 with Retry-After)."""

    retry_after_max_s: int = Field(default=3, ge=1)
    """A refused caller is told to come back after 1 to so many seconds, at random so that not all come at once."""

    hash_inline_max_bytes: int = Field(default=16_384, ge=0)
    """The most message bytes hashed on the event loop; more are hashed in a thread."""

    reserve_uses: int = Field(default=10_000, ge=2)
    """How many signatures one durable reservation in the audit record covers; more where they are used up within a
    second."""

    reserve_uses_max: int = Field(default=1_000_000, ge=2)
    """The most that a reservation grows to: a second's worth, so that a fast key does not cost a commit every few
    milliseconds. A worker that is killed leaves at most so many uses reserved and not told apart."""

    max_claims: int = Field(default=16_384, ge=1)
    """The most requests that wait for uses of keys with a rate or a total; past it a request is refused at once."""

    max_decrypting: int = Field(default=16_384, ge=1)
    """The most ciphertexts that wait or are being decrypted; past it a request is refused at once."""

    usage_interval_s: float = Field(default=60.0, gt=0)
    """How often exact counts per key and caller go into the audit record."""

    refusals_per_interval: int = Field(default=100, ge=0)
    """How many refusals are audited one by one in an interval; the rest are summed up at its end."""

    @model_validator(mode="after")
    def _consistent(self) -> EngineSettings:
        if self.batch_max > self.max_pending:
            raise ValueError("batch_max must not be greater than max_pending")
        if self.inline_max > self.batch_max:
            raise ValueError("inline_max must not be greater than batch_max")
        return self
