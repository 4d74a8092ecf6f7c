"""Settings of issuance: the `[issuance]` table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from core import oids
from core.asn1 import der
from core.settings import Settings
from signer.kmc.settings import CentreSettings

_URL: Final = re.compile(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/\-]*)?")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,39})){2,}")


def check_oid(value: str) -> str:
    """The dotted object identifier `value`. ValueError where it is none (X.660: under 0 and 1 the next arc is < 40)."""
    if not _OID.fullmatch(value) or (value[0] in "01" and int(value.split(".")[1]) > 39):
        raise ValueError("an object identifier is written as dotted numbers, for example 1.2.156.10197.1.501")
    der.oid(value)
    return value


def check_public_url(value: str) -> str:
    """`value` as it may stand in certificates: http(s), ASCII, no query, no trailing slash. ValueError otherwise."""
    if not _URL.fullmatch(value):
        raise ValueError("an http:// or https:// URL without query is needed, for example http://pki.example.cn")
    return value.rstrip("/")


class IssuanceSettings(Settings):
    """The `[issuance]` table."""

    public_url: str = "http://127.0.0.1:8080"
    """Where relying parties reach the public listener. Written into certificates; those issued keep the old one."""

    authority: Annotated[str, Field(min_length=1, max_length=32)] = "issuing"
    """The authority that issues where a request names none."""

    profiles: Path | None = None
    """A profile file of your own; without it, the shipped profiles."""

    status_index_oid: str = oids.STATUS_INDEX_DEFAULT
    """The extension that carries the status index (see docs: SEQUENCE {month INTEGER, index INTEGER})."""

    freshest_crl: bool = True
    """Whether certificates name their partition's delta CRL (FreshestCRL); never where `crl.delta` is off."""

    max_csr_bytes: Annotated[int, Field(ge=256, le=1 << 20)] = 64 * 1024
    """The largest certificate request that is looked at."""

    renewal_window_days: Annotated[int, Field(ge=1, le=366)] = 30
    """How long before its end a certificate can be renewed, in days."""

    recovery_hours: Annotated[int, Field(ge=1, le=720)] = 72
    """How long a key recovery that was asked for waits for its two approvals, in hours."""

    unlock_minutes: Annotated[int, Field(ge=1, le=10_080)] = 60
    """How long an unlock token can be used, in minutes."""

    check_url = field_validator("public_url")(check_public_url)
    check_status_oid = field_validator("status_index_oid")(check_oid)


class KmcSettings(Settings):
    """The `[kmc]` table."""

    spare_keys: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    """How many encryption keys are kept in advance; 0: each is made when it is needed."""

    refill_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 5.0
    """How often the spare store is looked into and filled up."""

    key: Annotated[str, Field(max_length=64)] = ""
    """The key, of purpose data and with a certificate, that signs CA-KM messages. With it, registered authorities are
    served at POST /v1/kmc (`qianyan kmc ca`), and `centres` can be asked; empty: neither."""

    request_window_s: Annotated[int, Field(ge=10, le=86_400)] = 300
    """How far the time in an authority's request may be from the time here."""

    centres: tuple[CentreSettings, ...] = ()
    """Other key-management centres, for the authorities whose encryption keys they make and keep."""

    master: Literal["file", "hsm"] = "file"
    """Where the master key is: in the key store's file, or in the hardware modules (`qianyan kmc master create`)."""

    master_kek_index: Annotated[int, Field(ge=1, le=100_000)] = 1
    """The index of the key-encryption key in the modules under which new master keys are made."""

    @model_validator(mode="after")
    def _centres_are_told_apart(self) -> Self:
        names = [centre.name for centre in self.centres]
        served = [authority for centre in self.centres for authority in centre.authorities]
        if len(set(names)) != len(names):
            raise ValueError("two centres have the same name")
        if len(set(served)) != len(served):
            raise ValueError("an authority asks one centre, not two")
        if self.centres and not self.key:
            raise ValueError("kmc.centres needs kmc.key: messages to them are signed")
        return self
