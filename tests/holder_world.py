"""An installation with everything that the RA's side is served by, and holders with numbers of the right form."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from signer.engine.master import SoftwareMaster
from signer.holders.claim import HolderClaim
from signer.holders.numbers import credit_check_character, identity_check_digit
from signer.holders.settings import HolderSettings
from signer.issuance.desk import Desk, DeskSettings, make_desk
from signer.issuance.profiles import load_profiles
from signer.issuance.settings import IssuanceSettings, KmcSettings
from tests.issuance_support import PUBLIC_URL, STATUS_OID, Installation, installation

_numbers = itertools.count(1)

SETTINGS = IssuanceSettings(public_url=PUBLIC_URL, status_index_oid=STATUS_OID)


def desk_on(
    world: Installation,
    *,
    spare_keys: int = 0,
    holders: HolderSettings | None = None,
    registry: CollectorRegistry | None = None,
) -> Desk:
    """Another process's parts over the same store, as far as that can be told."""
    settings = DeskSettings(SETTINGS, KmcSettings(spare_keys=spare_keys), holders or HolderSettings())
    return make_desk(
        world.database,
        world.signer_for,
        SoftwareMaster(world.keystore),
        load_profiles(),
        settings,
        world.clock,
        registry,
    )


@asynccontextmanager
async def desk_in(directory: Path, **more: object) -> AsyncIterator[tuple[Installation, Desk]]:
    """A fresh installation with its desk."""
    async with installation(directory) as world:
        desk = desk_on(world, **more)  # type: ignore[arg-type]
        try:
            yield world, desk
        finally:
            await desk.close()


def credit_code() -> str:
    """A unified social credit code that no other test has."""
    first = f"91440101MA{next(_numbers):07d}"
    return first + credit_check_character(first)


def identity_number() -> str:
    """An identity number that no other test has."""
    first = f"44010619800101{next(_numbers) % 1000:03d}"
    return first + identity_check_digit(first)


def organisation() -> HolderClaim:
    """A new organisation."""
    return HolderClaim.of(
        "organisation", credit_code(), name="粤港测试有限公司", phone="020-83330000", address="广州市越秀区府前路1号"
    )
