"""Who may do what: the one table of roles. Drawn in docs/registration.md; a test holds the two equal.

The roles are those that CA systems are examined for (GM/T 0037 §8.3): super administrator and audit administrator are
peers, neither of whom appoints the other; the business administrator appoints those who enter and approve; auditors
read. Judicial recovery is a role of its own. Knows words; not people or certificates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a person of a registration authority is."""

    SUPER_ADMINISTRATOR = "super_administrator"
    AUDIT_ADMINISTRATOR = "audit_administrator"
    BUSINESS_ADMINISTRATOR = "business_administrator"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    JUDICIAL = "judicial"


class Kind(StrEnum):
    """What a request asks for."""

    ISSUE = "issue"
    RENEW = "renew"
    CHANGE = "change"
    REISSUE = "reissue"
    SUSPEND = "suspend"
    RESUME = "resume"
    REVOKE = "revoke"
    UNLOCK = "unlock"
    RECOVER = "recover"
    RECOVER_JUDICIAL = "recover_judicial"


EVERY_KIND: Final = frozenset(Kind)
_BUSINESS: Final = EVERY_KIND - {Kind.RECOVER_JUDICIAL}
#: Of these a request needs two approvers beside the one who enters it.
TWICE_APPROVED: Final = frozenset({Kind.RECOVER, Kind.RECOVER_JUDICIAL})


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may enter, approve (and reject), and whom it may appoint and dismiss."""

    enters: frozenset[Kind] = frozenset()
    approves: frozenset[Kind] = frozenset()
    appoints: frozenset[Role] = frozenset()


RIGHTS: Final[Mapping[Role, Rights]] = {
    Role.SUPER_ADMINISTRATOR: Rights(appoints=frozenset({Role.BUSINESS_ADMINISTRATOR})),
    Role.AUDIT_ADMINISTRATOR: Rights(appoints=frozenset({Role.AUDITOR})),
    Role.BUSINESS_ADMINISTRATOR: Rights(appoints=frozenset({Role.OPERATOR, Role.APPROVER, Role.JUDICIAL})),
    Role.OPERATOR: Rights(enters=_BUSINESS),
    Role.APPROVER: Rights(approves=EVERY_KIND),
    Role.AUDITOR: Rights(),
    Role.JUDICIAL: Rights(enters=frozenset({Kind.RECOVER_JUDICIAL})),
}

#: One person's roles are all of one group: who administers does no business, who audits does neither.
TOGETHER: Final[tuple[frozenset[Role], ...]] = (
    frozenset({Role.SUPER_ADMINISTRATOR}),
    frozenset({Role.AUDIT_ADMINISTRATOR}),
    frozenset({Role.BUSINESS_ADMINISTRATOR}),
    frozenset({Role.OPERATOR, Role.APPROVER, Role.JUDICIAL}),
    frozenset({Role.AUDITOR}),
)


def may_enter(roles: Collection[Role], kind: Kind) -> bool:
    """Whether one of `roles` enters requests of `kind`."""
    return any(kind in RIGHTS[role].enters for role in roles)


def may_approve(roles: Collection[Role], kind: Kind) -> bool:
    """Whether one of `roles` approves requests of `kind`."""
    return any(kind in RIGHTS[role].approves for role in roles)


def may_appoint(roles: Collection[Role], wanted: Collection[Role]) -> bool:
    """Whether who has `roles` appoints, and dismisses, people of every one of `wanted`."""
    appoints = frozenset[Role]().union(*(RIGHTS[role].appoints for role in roles))
    return bool(wanted) and appoints.issuperset(wanted)


def go_together(roles: Collection[Role]) -> bool:
    """Whether one person may have all of `roles`."""
    return bool(roles) and any(group.issuperset(roles) for group in TOGETHER)
