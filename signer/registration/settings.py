"""Settings of registration authorities and their signed requests: the `[registration]` table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from core.settings import Settings


class RegistrationSettings(Settings):
    """The `[registration]` table."""

    required: bool = False
    """Whether certificates are issued and changed over HTTP by signed requests alone; "false": by tokens as well."""

    profile: Annotated[str, Field(min_length=1, max_length=64)] = "ra-person"
    """The certificate profile for people of registration authorities whose certificates are issued here."""

    signing_window_s: Annotated[int, Field(ge=10, le=86_400)] = 300
    """How old a signature may be when its request comes, in seconds."""

    signing_skew_s: Annotated[int, Field(ge=0, le=3600)] = 60
    """How far the signer's clock may be ahead of ours, in seconds."""

    approval_hours: Annotated[int, Field(ge=1, le=8760)] = 168
    """How long a request that was entered waits for its approval, in hours."""

    max_request_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 128 * 1024
    """The largest signed message that is looked at."""

    refusals_per_minute: Annotated[int, Field(ge=1, le=6000)] = 60
    """Requests of one source address that may fail to authenticate in a minute; more are answered 429."""
