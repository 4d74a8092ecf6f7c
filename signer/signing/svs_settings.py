"""Settings of the GB/T 38629 interface, each with its default."""

from __future__ import annotations

from pydantic import Field

from core.settings import Settings


class SvsSettings(Settings):
    """The national sign-and-verify interface under `/SignServer/` on the private listener."""

    enabled: bool = True
    """Whether there is one."""

    require_token: bool = False
    """Whether a call needs a token with scope `sign` beside what the standard asks for."""

    max_body_bytes: int = Field(default=8 << 20, ge=1_024)
    """The most bytes of a body."""

    max_data_bytes: int = Field(default=4 << 20, ge=1)
    """The most bytes of one `inData`, decoded."""

    max_sessions: int = Field(default=1_024, ge=1)
    """The most Init/Update/Final sessions open in one worker; past it an Init is refused (503 with Retry-After)."""

    max_session_bytes: int = Field(default=1 << 30, ge=1)
    """The most bytes that one session may be given, all its Updates together."""

    max_buffered_bytes: int = Field(default=64 << 20, ge=1)
    """The most bytes kept in one worker for sessions whose Init did not name the signer's public key: their data cannot
    be hashed before Final names it."""

    session_idle_s: int = Field(default=300, ge=1)
    """A session ends when it has not been used for so long."""

    code_free_failures: int = Field(default=5, ge=1)
    """How many wrong authorisation codes a key takes before each further one makes the next wait."""

    code_backoff_first_s: int = Field(default=1, ge=1)
    """The first wait; it doubles with each further wrong code."""

    code_backoff_max_s: int = Field(default=300, ge=1)
    """The longest wait."""

    code_forget_s: int = Field(default=60, ge=1)
    """After so long without a wrong code one of them is forgotten."""

    hash_inline_max_bytes: int = Field(default=16_384, ge=0)
    """The most bytes hashed on the event loop; more are hashed in a thread."""
