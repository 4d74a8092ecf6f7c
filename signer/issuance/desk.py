"""Everything that the RA's side is served by, put together: issuing, life cycle, recovery, unlocking, holders, keys.

Only wiring: each part is handed the others that it needs. Closed by `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from core.clock import Clock
from core.ports import BatchSigner, Signer
from core.store.database import Database
from signer.engine.master import MasterKey
from signer.holders import register
from signer.holders.register import HttpRegister
from signer.holders.service import Holders
from signer.holders.settings import HolderSettings
from signer.holders.vault import Vault
from signer.issuance.bulk import BulkParts
from signer.issuance.issuer import Issuer
from signer.issuance.keeper import KeyKeeper
from signer.issuance.kmc import KeyManagement
from signer.issuance.metrics import IssuanceMetrics, KmcMetrics
from signer.issuance.profiles import Profiles
from signer.issuance.recovery import Recoveries
from signer.issuance.settings import IssuanceSettings, KmcSettings
from signer.issuance.unlocking import Unlocking
from signer.kmc.centres import Centres


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """The tables of the settings file that concern it."""

    issuance: IssuanceSettings
    kmc: KmcSettings
    holders: HolderSettings


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts. `keeper` runs in one process of an installation."""

    issuer: Issuer
    holders: Holders
    recoveries: Recoveries
    unlocking: Unlocking
    keys: KeyManagement
    keeper: KeyKeeper
    register: HttpRegister | None
    centres: Centres | None
    vault: Vault
    bulk: Callable[[Callable[[str], BatchSigner]], BulkParts]
    """For `bulk.BulkIssuer`, given the signer of a key id for batches."""

    async def close(self) -> None:
        """Closes connections to the register and to key-management centres."""
        if self.register is not None:
            await self.register.close()
        if self.centres is not None:
            await self.centres.close()


def make_desk(
    database: Database,
    signer_for: Callable[[str], Signer],
    master: MasterKey,
    profiles: Profiles,
    settings: DeskSettings,
    clock: Clock,
    registry: CollectorRegistry | None = None,
    centres: Centres | None = None,
) -> Desk:
    """The parts over one store. `signer_for` gives the signer of a key id; `master` wraps keys; `centres`: other
    key-management centres, for the authorities that have one."""
    kmc_metrics = KmcMetrics.create(registry)
    keys = KeyManagement(master, database if settings.kmc.spare_keys else None, clock, kmc_metrics)
    vault = Vault(database, master, clock)
    asked = register.from_settings(settings.holders, registry)
    holders = Holders(database, vault, clock, settings.holders, register=None if asked is None else asked[1])
    issuer = Issuer(
        database,
        signer_for,
        master,
        profiles,
        settings.issuance,
        clock,
        metrics=IssuanceMetrics.create(registry),
        keys=keys,
        holders=holders,
        centres=centres,
    )
    return Desk(
        issuer=issuer,
        holders=holders,
        recoveries=Recoveries(database, keys, settings.issuance, clock, centres),
        unlocking=Unlocking(database, vault, settings.issuance, clock),
        keys=keys,
        keeper=KeyKeeper(keys, database, settings.kmc, clock, kmc_metrics, centres),
        register=None if asked is None else asked[0],
        centres=centres,
        vault=vault,
        bulk=lambda batch_signer_for: BulkParts(
            database,
            profiles,
            settings.issuance,
            holders,
            keys,
            batch_signer_for,
            (lambda _: False) if centres is None else centres.serves,
            clock,
        ),
    )
