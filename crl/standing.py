"""How one scope stands: what status, metrics and pages show of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.store.crls import CrlSummary
from core.store.leases import Lease
from crl.schedule import ScopeState
from crl.settings import CrlSettings


@dataclass(frozen=True, slots=True)
class ScopeStatus:
    """How one scope stands. `number` and what follows it are None where there is no CRL yet; so with the delta.

    waiting: something was revoked, held or released that the CRL does not list yet. late: less of its life is left than
    the alarm asks for, though its issuer does not end with it. builder: who builds it now, or built it last. ended: the
    issuer's certificate has ended, and no CRL is built any more.
    """

    authority_id: str
    partition: int
    number: int | None
    this_update_ms: int | None
    next_update_ms: int | None
    age_s: float | None
    seconds_left: float | None
    entries: int | None
    size: int | None
    next_build_ms: int
    waiting: bool
    failures: int
    last_error: str | None
    late: bool = False
    delta_number: int | None = None
    delta_size: int | None = None
    builder: str | None = None
    building: bool = False
    ended: bool = False

    @property
    def fresh(self) -> bool:
        """Whether there is a CRL that may be served: what readiness asks."""
        return self.seconds_left is not None and self.seconds_left >= 0


def standing(
    state: ScopeState, now_ms: int, settings: CrlSettings, delta: CrlSummary | None, lease: Lease | None
) -> ScopeStatus:
    """How a scope stands at `now_ms`. delta: its newest one."""
    newest = state.newest
    seconds_left = (newest.next_update_ms - now_ms) / 1000 if newest else None
    if newest is None or (delta is not None and delta.number < newest.number):
        delta = None
    return ScopeStatus(
        authority_id=state.authority_id,
        partition=state.partition,
        number=newest.number if newest else None,
        this_update_ms=newest.this_update_ms if newest else None,
        next_update_ms=newest.next_update_ms if newest else None,
        age_s=(now_ms - newest.this_update_ms) / 1000 if newest else None,
        seconds_left=seconds_left,
        entries=newest.entries if newest else None,
        size=newest.size if newest else None,
        next_build_ms=state.due_at_ms(settings),
        waiting=state.changed_at_ms is not None,
        failures=state.failures,
        last_error=state.last_error,
        late=state.late(now_ms, settings.alarm_left_s * 1000),
        delta_number=delta.number if delta else None,
        delta_size=delta.size if delta else None,
        builder=lease.holder if lease else None,
        building=lease.held if lease else False,
        ended=state.ended(now_ms),
    )
