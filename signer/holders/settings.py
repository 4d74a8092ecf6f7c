"""Settings of holders: the `[holders]` table."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, field_validator

from core.settings import Settings
from signer.holders.numbers import HolderKind

_URL: Final = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/\-]*)?")


class HolderSettings(Settings):
    """The `[holders]` table."""

    required: bool = False
    """Whether every certificate that is issued names its holder; "false" lets requests without one pass."""

    register_url: str = ""
    """Where a register is asked whether a holder's data is right before anything is issued; empty: no register."""

    register_kinds: frozenset[HolderKind] = frozenset({HolderKind.ORGANISATION, HolderKind.PERSON})
    """Kinds of holders that are looked up there: organisation, person, device."""

    register_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """How long the register may take to answer; past it the request is refused as "try again"."""

    register_max_concurrent: Annotated[int, Field(ge=1, le=1000)] = 32
    """Questions to the register at a time; more are refused as busy."""

    @field_validator("register_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and not _URL.fullmatch(value):
            raise ValueError(
                "an http:// or https:// URL without query is needed, for example https://register.example.cn/v1"
            )
        return value
