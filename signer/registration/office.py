"""Everything that registration authorities are served by, put together. Only wiring."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from core.clock import Clock
from core.store.database import Database
from signer.issuance.desk import Desk
from signer.issuance.profiles import Profiles
from signer.issuance.settings import IssuanceSettings
from signer.registration.admin import Administration
from signer.registration.appointing import Appointments
from signer.registration.directory import Directory
from signer.registration.effects import Effects
from signer.registration.filing import Rules
from signer.registration.metrics import RegistrationMetrics
from signer.registration.reception import Reception
from signer.registration.rekeying import Rekeying
from signer.registration.service import SignedRequests
from signer.registration.settings import RegistrationSettings
from signer.registration.standing import Verification


@dataclass(frozen=True, slots=True)
class Office:
    """The parts."""

    requests: SignedRequests
    administration: Administration
    appointments: Appointments
    settings: RegistrationSettings
    rekeying: Rekeying


def make_office(
    database: Database,
    desk: Desk,
    profiles: Profiles,
    settings: RegistrationSettings,
    issuance: IssuanceSettings,
    clock: Clock,
    *,
    foreign: Verification | None = None,
    registry: CollectorRegistry | None = None,
) -> Office:
    """The parts over one store. `foreign`: judges people's certificates that were issued elsewhere."""
    directory = Directory(database)
    rules = Rules(directory, settings, clock, issuance.authority)
    effects = Effects(database, desk, profiles, clock, issuance.max_csr_bytes)
    metrics = RegistrationMetrics.create(registry)
    reception = Reception(database, directory, desk.vault, settings, clock, metrics, foreign=foreign)
    administration = Administration(database, desk, settings, clock, foreign=foreign)
    return Office(
        SignedRequests(rules, effects, reception, desk.vault, desk.unlocking, metrics),
        administration,
        Appointments(database, administration, directory, reception, clock),
        settings,
        Rekeying(database, desk.vault, clock),
    )
