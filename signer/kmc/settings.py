"""Settings of CA-KM messages: what `[[kmc.centres]]` has."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, field_validator

from core.settings import Settings

_URL: Final = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


class CentreSettings(Settings):
    """One entry of `[[kmc.centres]]`: another key-management centre, which makes and keeps encryption keys."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    """The centre's name in logs, metrics and commands. Do not change it: keys are on record under it."""
    authorities: Annotated[tuple[str, ...], Field(min_length=1)]
    """Which authorities of this installation ask it for keys; the others have theirs made here."""
    url: str
    """Where CA-KM messages are POSTed, for example https://kmc.example.cn/v1/kmc."""
    certificate: str
    """PEM or DER file: the centre's certificate, under which its answers must verify."""
    ca_file: str | None = None
    """PEM file: authorities of its TLS certificate; without it, the system's."""
    client_certificate: str | None = None
    """PEM file: the certificate that is shown in TLS; needs client_key."""
    client_key: str | None = None
    """PEM file: the key of client_certificate, mode 0600."""
    token_file: str | None = None
    """File whose first line is a bearer token for the centre; mode 0600."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long one message may take, connecting included."""
    attempts: Annotated[int, Field(ge=1, le=5)] = 2
    """How often a message is sent under one task number before the certificate's request is answered 503."""
    max_concurrent: Annotated[int, Field(ge=1, le=1000)] = 64
    """Messages to the centre at once in a process; one more is refused (503)."""
    open_after: Annotated[int, Field(ge=1, le=100)] = 5
    """After so many failures in a row the centre is not asked for open_s."""
    open_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long it is then left alone; after that, one message tries it."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not _URL.fullmatch(value):
            raise ValueError("an http:// or https:// URL without query is needed")
        return value
